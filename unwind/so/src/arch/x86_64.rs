//! x86-64 Linux: the thread pointer, a word of TLS, whether a page can be read, glibc's symbols.
//!
//! ```text
//!   fs:0 ─► TCB = end of a thread's stack        fs:proven ─► lowest proven sp
//! ```

mod exports;

use core::arch::{asm, global_asm};
use core::ffi::{c_int, c_void};

use crate::objects::FoundObject;

// Initial exec: eight bytes of the block that every thread has from its start, so that no access
// allocates. Rust's own thread-locals are made on first use in a library that is loaded late.
global_asm!(
    ".pushsection .tbss.unspool_proven, \"awT\", @nobits",
    ".balign 8",
    ".local unspool_proven",
    ".type unspool_proven, @object",
    ".size unspool_proven, 8",
    "unspool_proven:",
    ".zero 8",
    ".popsection",
);

/// The lowest stack pointer of this thread that is known to be on its own stack; 0 at first.
pub(crate) fn proven() -> u64 {
    let value;
    // SAFETY: reads the thread's own word.
    unsafe {
        asm!(
            "mov {value}, [rip + unspool_proven@gottpoff]",
            "mov {value}, fs:[{value}]",
            value = out(reg) value,
            options(nostack, preserves_flags, readonly),
        );
    }
    value
}

/// Sets what [`proven`] gives.
pub(crate) fn set_proven(sp: u64) {
    // SAFETY: writes the thread's own word.
    unsafe {
        asm!(
            "mov {offset}, [rip + unspool_proven@gottpoff]",
            "mov fs:[{offset}], {value}",
            offset = out(reg) _,
            value = in(reg) sp,
            options(nostack, preserves_flags),
        );
    }
}

/// The thread pointer (ELF TLS §3.4.6).
pub(crate) fn thread_pointer() -> u64 {
    let value;
    // SAFETY: the word there is the pointer to itself.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) value, options(nostack, preserves_flags, readonly, pure));
    }
    value
}

const RT_SIGPROCMASK: i64 = 14;
const EFAULT: i64 = -14;

/// Whether the words of the page at `page` can be read: the kernel is asked to read a signal
/// set there, for a change that does not exist.
pub(crate) fn readable(page: u64) -> bool {
    let result: i64;
    // SAFETY: the call changes nothing, whatever it answers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") RT_SIGPROCMASK => result,
            in("rdi") -1,
            in("rsi") page,
            in("rdx") 0,
            in("r10") 8,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result != EFAULT
}

global_asm!(".weak _dl_find_object, __libc_stack_end, __gxx_personality_v0");

/// `_dl_find_object` (glibc).
pub(crate) type FindObject = unsafe extern "C" fn(*mut c_void, *mut FoundObject) -> c_int;

/// glibc's, from 2.35 on.
pub(crate) fn dl_find_object() -> Option<FindObject> {
    let address: *const ();
    // SAFETY: reads a word of the global offset table.
    unsafe {
        asm!(
            "mov {}, [rip + _dl_find_object@GOTPCREL]",
            out(reg) address,
            options(nostack, preserves_flags, readonly, pure),
        );
    }
    // SAFETY: the function has this type; a weak symbol that nobody defines is null, which is
    // `None`.
    unsafe { core::mem::transmute::<*const (), Option<FindObject>>(address) }
}

/// What `__gxx_personality_v0` means in the program, if anybody defined it when this library was
/// loaded; or 0.
pub(crate) fn cpp_personality() -> u64 {
    let address;
    // SAFETY: reads a word of the global offset table.
    unsafe {
        asm!(
            "mov {}, [rip + __gxx_personality_v0@GOTPCREL]",
            out(reg) address,
            options(nostack, preserves_flags, readonly, pure),
        );
    }
    address
}

/// Where the main thread's stack ends, as the dynamic linker found it; 0 if it does not tell.
pub(crate) fn libc_stack_end() -> u64 {
    let address: *const u64;
    // SAFETY: reads a word of the global offset table.
    unsafe {
        asm!(
            "mov {}, [rip + __libc_stack_end@GOTPCREL]",
            out(reg) address,
            options(nostack, preserves_flags, readonly, pure),
        );
    }
    if address.is_null() {
        return 0;
    }
    // SAFETY: the dynamic linker's variable, which it wrote before it loaded anything.
    unsafe { address.read() }
}
