//! What personalities ask of a frame (Itanium EH §1.5).
//!
//! ```text
//!   _Unwind_Context, opaque to C ─► Context
//! ```

use core::ffi::c_int;

use crate::address::Pc;
use crate::context::Context;
use crate::registers::Register;
use crate::trace::bases_of;

/// The column with this number, if it is one that is tracked.
#[inline]
fn column(index: c_int) -> Option<Register> {
    u16::try_from(index).ok().and_then(Register::from_dwarf)
}

/// The value of a register, by its DWARF number; 0 for one that is not tracked.
#[inline]
pub extern "C" fn _Unwind_GetGR(context: &Context, index: c_int) -> u64 {
    column(index).map_or(0, |register| context.register(register))
}

/// Sets a register for the landing pad, by its DWARF number; one that is not tracked stays.
#[inline]
pub extern "C" fn _Unwind_SetGR(context: &mut Context, index: c_int, value: u64) {
    if let Some(register) = column(index) {
        context.set_register(register, value);
    }
}

/// Where the frame is executing: a return address, or that of an interrupted instruction.
#[inline]
pub extern "C" fn _Unwind_GetIP(context: &Context) -> u64 {
    context.register(Register::RA)
}

/// As [`_Unwind_GetIP`]; `before` becomes 1 if that is an instruction that has not completed.
#[inline]
pub extern "C" fn _Unwind_GetIPInfo(context: &Context, before: &mut c_int) -> u64 {
    *before = c_int::from(matches!(context.pc(), Pc::Exact(_)));
    context.register(Register::RA)
}

/// Sets where to land.
#[inline]
pub extern "C" fn _Unwind_SetIP(context: &mut Context, address: u64) {
    context.set_ip(address);
}

/// The stack pointer of the frame, which is the CFA of the one it called: what libgcc and
/// libunwind answer, and glibc compares with the stack pointers in its jump buffers.
pub extern "C" fn _Unwind_GetCFA(context: &Context) -> u64 {
    context.register(Register::RSP)
}

/// The LSDA of the frame's function, or 0.
#[inline]
pub extern "C" fn _Unwind_GetLanguageSpecificData(context: &Context) -> u64 {
    let Some(address) = context.known().direct_lsda() else { return detoured_lsda(context) };
    address
}

#[inline(never)]
extern "C" fn detoured_lsda(context: &Context) -> u64 {
    context.lsda_address().unwrap_or(0)
}

/// The first address of the frame's function.
#[inline]
pub extern "C" fn _Unwind_GetRegionStart(context: &Context) -> u64 {
    context.region_start()
}

/// What `DW_EH_PE_textrel` is relative to in an LSDA: 0, unless the tables were registered with it.
pub extern "C" fn _Unwind_GetTextRelBase(context: &Context) -> u64 {
    bases_of(context.pc().lookup()).0
}

/// What `DW_EH_PE_datarel` is relative to in an LSDA: 0, unless the tables were registered with it.
pub extern "C" fn _Unwind_GetDataRelBase(context: &Context) -> u64 {
    bases_of(context.pc().lookup()).1
}

type Get = extern "C" fn(&Context) -> u64;

const _: extern "C" fn(&Context, c_int) -> u64 = _Unwind_GetGR;
const _: extern "C" fn(&mut Context, c_int, u64) = _Unwind_SetGR;
const _: extern "C" fn(&Context, &mut c_int) -> u64 = _Unwind_GetIPInfo;
const _: extern "C" fn(&mut Context, u64) = _Unwind_SetIP;
const _: [Get; 6] = [
    _Unwind_GetIP,
    _Unwind_GetCFA,
    _Unwind_GetLanguageSpecificData,
    _Unwind_GetRegionStart,
    _Unwind_GetTextRelBase,
    _Unwind_GetDataRelBase,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::Registers;
    use crate::stack::StackBounds;

    fn context(pc: Pc) -> Context {
        let mut registers = Registers::new();
        for register in Register::all() {
            registers.set(register, 100 + register.number() as u64);
        }
        Context::new(&registers, pc, StackBounds::EMPTY)
    }

    #[test]
    fn every_tracked_column_can_be_read_and_set_and_others_do_nothing() {
        let mut context = context(Pc::Return(116));
        for index in 0..=16 {
            assert_eq!(_Unwind_GetGR(&context, index), 100 + index as u64);
            _Unwind_SetGR(&mut context, index, 200 + index as u64);
        }
        for index in [-1, 17, 40, c_int::MAX, c_int::MIN] {
            _Unwind_SetGR(&mut context, index, 1);
            assert_eq!(_Unwind_GetGR(&context, index), 0);
        }
        for index in 0..=16 {
            assert_eq!(_Unwind_GetGR(&context, index), 200 + index as u64);
        }
        assert_eq!((_Unwind_GetIP(&context), _Unwind_GetCFA(&context)), (216, 207));
        _Unwind_SetIP(&mut context, 7);
        assert_eq!(_Unwind_GetIP(&context), 7);
    }

    #[test]
    fn an_interrupted_instruction_is_told_from_a_return_address() {
        let mut before = -1;
        assert_eq!(_Unwind_GetIPInfo(&context(Pc::Return(116)), &mut before), 116);
        assert_eq!(before, 0);
        assert_eq!(_Unwind_GetIPInfo(&context(Pc::Exact(116)), &mut before), 116);
        assert_eq!(before, 1);
    }
}
