//! Values of scripts, and whether a result is the one that is expected.
#![forbid(unsafe_code)]

use core::fmt::Debug;

use wasmtime::{AnyRef, ExternRef, Result, Store, Val};

use crate::record::{Argument, Expected, Float, Null};

/// The value of an argument.
pub fn argument(store: &mut Store<()>, argument: &Argument) -> Result<Val> {
    Ok(match *argument {
        Argument::I32(value) => Val::I32(value),
        Argument::I64(value) => Val::I64(value),
        Argument::F32(bits) => Val::F32(bits),
        Argument::F64(bits) => Val::F64(bits),
        Argument::V128(bits) => Val::V128(bits.into()),
        Argument::Null(Null::Func) => Val::FuncRef(None),
        Argument::Null(Null::Extern) => Val::ExternRef(None),
        Argument::Null(Null::Any) => Val::AnyRef(None),
        Argument::Null(Null::Exn) => Val::ExnRef(None),
        Argument::Extern(number) => Val::ExternRef(Some(ExternRef::new(store, number)?)),
        Argument::Host(number) => {
            let outside = ExternRef::new(&mut *store, number)?;
            Val::AnyRef(Some(AnyRef::convert_extern(store, outside)?))
        }
    })
}

/// Whether `value` is what is expected.
pub fn agrees(store: &mut Store<()>, value: &Val, expected: &Expected) -> Result<bool> {
    Ok(match (expected, value) {
        (Expected::I32(expected), Val::I32(value)) => expected == value,
        (Expected::I64(expected), Val::I64(value)) => expected == value,
        (Expected::F32(expected), Val::F32(bits)) => float32(*expected, *bits),
        (Expected::F64(expected), Val::F64(bits)) => float64(*expected, *bits),
        (Expected::V128(expected), Val::V128(value)) => *expected == value.as_u128(),
        (Expected::F32x4(expected), Val::V128(value)) => {
            let lanes = (0..4).map(|lane| (value.as_u128() >> (32 * lane)) as u32);
            expected.iter().zip(lanes).all(|(&expected, bits)| float32(expected, bits))
        }
        (Expected::F64x2(expected), Val::V128(value)) => {
            let lanes = (0..2).map(|lane| (value.as_u128() >> (64 * lane)) as u64);
            expected.iter().zip(lanes).all(|(&expected, bits)| float64(expected, bits))
        }
        (Expected::Either(cases), value) => {
            for case in cases {
                if agrees(store, value, case)? {
                    return Ok(true);
                }
            }
            false
        }
        (expected, value) => reference(store, value, expected)?,
    })
}

fn reference(store: &mut Store<()>, value: &Val, expected: &Expected) -> Result<bool> {
    Ok(match (expected, value) {
        (Expected::Null(Some(Null::Func) | None), Val::FuncRef(None))
        | (Expected::Null(Some(Null::Extern) | None), Val::ExternRef(None))
        | (Expected::Null(Some(Null::Any) | None), Val::AnyRef(None))
        | (Expected::Null(Some(Null::Exn) | None), Val::ExnRef(None))
        | (Expected::Func, Val::FuncRef(Some(_)))
        | (Expected::Extern(None), Val::ExternRef(Some(_)))
        | (Expected::Any, Val::AnyRef(Some(_))) => true,
        (Expected::Extern(Some(number)), Val::ExternRef(Some(value))) => {
            number_of(value.data(&*store)?) == Some(*number)
        }
        (Expected::Host(number), Val::AnyRef(Some(value))) => {
            let outside = ExternRef::convert_any(&mut *store, *value)?;
            number_of(outside.data(&*store)?) == Some(*number)
        }
        (Expected::Eq, Val::AnyRef(Some(value))) => value.is_eqref(store)?,
        (Expected::Array, Val::AnyRef(Some(value))) => value.is_array(store)?,
        (Expected::Struct, Val::AnyRef(Some(value))) => value.is_struct(store)?,
        (Expected::I31, Val::AnyRef(Some(value))) => value.is_i31(store)?,
        _ => false,
    })
}

/// What [`argument`] put into a reference.
fn number_of(data: Option<&(dyn core::any::Any + Send + Sync)>) -> Option<u32> {
    data?.downcast_ref().copied()
}

/// Bits of a float, whose highest bit of the payload is the last of `quiet`.
fn float<T: Copy + Debug + PartialEq>(
    expected: Float<T>,
    bits: T,
    masked: impl Fn(T, T) -> T,
    quiet: T,
    without_sign: T,
) -> bool {
    match expected {
        Float::Bits(expected) => expected == bits,
        Float::CanonicalNan => masked(bits, without_sign) == quiet,
        Float::ArithmeticNan => masked(bits, quiet) == quiet,
    }
}

fn float32(expected: Float<u32>, bits: u32) -> bool {
    float(expected, bits, |bits, mask| bits & mask, 0x7fc0_0000, u32::MAX >> 1)
}

fn float64(expected: Float<u64>, bits: u64) -> bool {
    float(expected, bits, |bits, mask| bits & mask, 0x7ff8 << 48, u64::MAX >> 1)
}
