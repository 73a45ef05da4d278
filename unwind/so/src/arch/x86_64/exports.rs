//! The names that the library exports, with libgcc_s.so.1's versions.
//!
//! ```text
//!   _Unwind_Resume@@GCC_3.0 ─ jmp ─► unspool_unwind::abi::_Unwind_Resume
//!   __udivti3@GCC_3.0       ─ jmp ─► __udivti3 of the compiler's own libgcc.a
//! ```
//!
//! Symbols with a version, because programs ask for them by it; through a jump, because rustc
//! exports what has a C name in Rust without one. The registers and the stack are as the callee
//! expects them: a jump is as good as a call. What is not unwinding comes from where gcc takes
//! it if it links statically; these have no default version, so that here the name still
//! means the original.

use core::arch::global_asm;
use core::ffi::c_int;

use unspool_unwind::{Context, abi};

use crate::personality::gcc_personality_v0;

/// Exports functions of Rust, each with its version.
macro_rules! export {
    ($($name:ident $version:literal $callee:path;)*) => {
        $(global_asm!(
            ".pushsection .text, \"ax\", @progbits",
            concat!(".globl unspool.", stringify!($name)),
            concat!(".type unspool.", stringify!($name), ", @function"),
            concat!("unspool.", stringify!($name), ":"),
            ".cfi_startproc",
            "jmp {callee}",
            ".cfi_endproc",
            concat!(".symver unspool.", stringify!($name), ", ", stringify!($name), "@@", $version),
            ".popsection",
            callee = sym $callee,
        );)*
    };
}

/// Exports small functions of Rust, each with its version and without a jump: personalities call them for
/// each frame. They are compiled here, into the object in which the symbol is.
macro_rules! export_here {
    ($($name:ident $version:literal ($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            #[allow(non_snake_case)]
            extern "C" fn $name($($argument: $type),*) $(-> $result)? {
                abi::$name($($argument),*)
            }

            global_asm!(
                concat!(".globl unspool.", stringify!($name)),
                concat!(".type unspool.", stringify!($name), ", @function"),
                concat!(".set unspool.", stringify!($name), ", {here}"),
                concat!(".symver unspool.", stringify!($name), ", ", stringify!($name), "@@", $version),
                here = sym $name,
            );
        )*
    };
}

/// Exports functions of libgcc.a, each with its version.
macro_rules! hand_on {
    ($($version:literal: $($name:ident)*;)*) => {
        $($(global_asm!(
            ".pushsection .text, \"ax\", @progbits",
            concat!(".globl unspool.", stringify!($name), ".", $version),
            concat!(".type unspool.", stringify!($name), ".", $version, ", @function"),
            concat!("unspool.", stringify!($name), ".", $version, ":"),
            ".cfi_startproc",
            concat!("jmp ", stringify!($name)),
            ".cfi_endproc",
            concat!(
                ".symver unspool.", stringify!($name), ".", $version, ", ",
                stringify!($name), "@", $version
            ),
            ".popsection",
        );)*)*
    };
}

export_here! {
    _Unwind_GetGR "GCC_3.0" (context: &Context, index: c_int) -> u64;
    _Unwind_GetIP "GCC_3.0" (context: &Context) -> u64;
    _Unwind_GetIPInfo "GCC_4.2.0" (context: &Context, before: &mut c_int) -> u64;
    _Unwind_GetLanguageSpecificData "GCC_3.0" (context: &Context) -> u64;
    _Unwind_GetRegionStart "GCC_3.0" (context: &Context) -> u64;
    _Unwind_SetGR "GCC_3.0" (context: &mut Context, index: c_int, value: u64);
    _Unwind_SetIP "GCC_3.0" (context: &mut Context, address: u64);
}

export! {
    _Unwind_DeleteException "GCC_3.0" abi::_Unwind_DeleteException;
    _Unwind_Find_FDE "GCC_3.0" abi::_Unwind_Find_FDE;
    _Unwind_ForcedUnwind "GCC_3.0" abi::_Unwind_ForcedUnwind;
    _Unwind_GetDataRelBase "GCC_3.0" abi::_Unwind_GetDataRelBase;
    _Unwind_GetTextRelBase "GCC_3.0" abi::_Unwind_GetTextRelBase;
    _Unwind_RaiseException "GCC_3.0" abi::_Unwind_RaiseException;
    _Unwind_Resume "GCC_3.0" abi::_Unwind_Resume;
    __deregister_frame "GCC_3.0" abi::__deregister_frame;
    __deregister_frame_info "GCC_3.0" abi::__deregister_frame_info;
    __deregister_frame_info_bases "GCC_3.0" abi::__deregister_frame_info_bases;
    __register_frame "GCC_3.0" abi::__register_frame;
    __register_frame_info "GCC_3.0" abi::__register_frame_info;
    __register_frame_info_bases "GCC_3.0" abi::__register_frame_info_bases;
    __register_frame_info_table "GCC_3.0" abi::__register_frame_info_table;
    __register_frame_info_table_bases "GCC_3.0" abi::__register_frame_info_table_bases;
    __register_frame_table "GCC_3.0" abi::__register_frame_table;
    _Unwind_Backtrace "GCC_3.3" abi::_Unwind_Backtrace;
    _Unwind_FindEnclosingFunction "GCC_3.3" abi::_Unwind_FindEnclosingFunction;
    _Unwind_GetCFA "GCC_3.3" abi::_Unwind_GetCFA;
    _Unwind_Resume_or_Rethrow "GCC_3.3" abi::_Unwind_Resume_or_Rethrow;
    __gcc_personality_v0 "GCC_3.3.1" gcc_personality_v0;
}

hand_on! {
    "GCC_3.0":
        __absvdi2 __absvsi2 __addvdi3 __addvsi3 __ashlti3 __ashrti3 __clear_cache
        __cmpti2 __divti3 __extendsfdf2 __ffsdi2 __ffsti2 __fixdfti __fixsfti
        __fixunsdfdi __fixunsdfti __fixunssfdi __fixunssfti __fixunsxfdi __fixunsxfti
        __fixxfti __floattidf __floattisf __floattixf __gttf2 __lshrti3 __lttf2 __modti3
        __multi3 __mulvdi3 __mulvsi3 __negti2 __negvdi2 __negvsi2 __netf2 __subvdi3
        __subvsi3 __truncdfsf2 __ucmpti2 __udivmodti4 __udivti3 __umodti3;
    "GCC_3.4":
        __clzdi2 __clzti2 __ctzdi2 __ctzti2 __paritydi2 __parityti2 __popcountdi2
        __popcountti2;
    "GCC_3.4.2":
        __enable_execute_stack;
    "GCC_3.4.4":
        __absvti2 __addvti3 __mulvti3 __negvti2 __subvti3;
    "GCC_4.0.0":
        __divdc3 __divsc3 __divtc3 __divxc3 __muldc3 __mulsc3 __multc3 __mulxc3
        __powidf2 __powisf2 __powitf2 __powixf2;
    "GCC_4.2.0":
        __floatuntidf __floatuntisf __floatuntixf;
    "GCC_4.3.0":
        __addtf3 __bswapdi2 __bswapsi2 __divtc3 __divtf3 __eqtf2 __extenddftf2
        __extendsftf2 __extendxftf2 __fixtfdi __fixtfsi __fixtfti __fixunstfdi
        __fixunstfsi __fixunstfti __floatditf __floatsitf __floattitf __floatunditf
        __floatunsitf __floatuntitf __getf2 __gttf2 __letf2 __lttf2 __multc3 __multf3
        __negtf2 __netf2 __powitf2 __subtf3 __trunctfdf2 __trunctfsf2 __trunctfxf2
        __unordtf2;
    "GCC_4.7.0":
        __clrsbdi2 __clrsbti2;
    "GCC_7.0.0":
        __divmodti4;
    "GCC_12.0.0":
        __divhc3 __eqhf2 __extendhfdf2 __extendhfsf2 __extendhftf2 __extendhfxf2
        __fixhfti __fixunshfti __floattihf __floatuntihf __mulhc3 __nehf2 __truncdfhf2
        __truncsfhf2 __trunctfhf2 __truncxfhf2;
}
