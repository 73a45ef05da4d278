//! Accesses as they stand in compiled code, in rows long enough to be timed.
//!
//! ```text
//!  relaxed    what the loader (and every linker, for a program's own variables) makes of a model
//!  by call    what it leaves as it is: by number, by descriptor, by the word of a GOT
//! ```
//!
//! The same rows with relocations for glibc's side are in `accesses.S`.

#[path = "../../../tests/running/arch/area.rs"]
mod area;

use std::arch::naked_asm;
use std::cell::UnsafeCell;

pub use area::on;
use unspool_tls::{__tls_get_addr, TlsIndex};

/// Accesses in a row.
pub const ROW: usize = 8;
/// Where the variable is: in the only block with static space of an area without a block of the
/// program, 64 bytes long.
pub const OFFSET: i32 = -64 + 8;

/// What accesses that are not relaxed go through, as the loader puts it into an object's GOT.
#[repr(transparent)]
pub struct Slot<T>(UnsafeCell<T>);

// SAFETY: written before the rows that read it run, by one thread.
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// Before any row that uses it.
    pub fn set(&self, value: T) {
        // SAFETY: the bench has one thread, and no row runs now.
        unsafe { self.0.get().write(value) };
    }

    pub fn as_ptr(&self) -> *const T {
        self.0.get()
    }
}

pub static INDEX: Slot<TlsIndex> = Slot(UnsafeCell::new(TlsIndex { module: 0, offset: 0 }));
pub static DESCRIPTOR: Slot<[u64; 2]> = Slot(UnsafeCell::new([0; 2]));
pub static TP_OFFSET: Slot<i64> = Slot(UnsafeCell::new(0));

/// Makes `times` rows of accesses.
pub type Rows = unsafe extern "C" fn(times: usize);
/// `__tls_get_addr`
pub type Get = unsafe extern "C" fn(*const TlsIndex) -> *mut u8;

macro_rules! rows {
    ($name:ident, [$($access:literal),+], $($operands:tt)*) => {
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(times: usize) {
            naked_asm!(
                ".p2align 6",
                "pushq %rbx",
                "movq %rdi, %rbx",
                ".p2align 5",
                "9:",
                ".rept {row}",
                $($access,)+
                ".endr",
                "decq %rbx",
                "jnz 9b",
                "popq %rbx",
                "ret",
                $($operands)*,
                row = const ROW,
                options(att_syntax),
            )
        }
    };
}

rows!(local_exec, ["movq %fs:{offset}, %rcx"], offset = const OFFSET);
rows!(
    initial_exec_relaxed,
    ["movq ${offset}, %rax", "movq %fs:(%rax), %rcx"],
    offset = const OFFSET
);
rows!(
    general_dynamic_relaxed,
    ["movq %fs:0, %rax", "{{disp32}} leaq {offset}(%rax), %rax", "movq (%rax), %rcx"],
    offset = const OFFSET
);
rows!(
    local_dynamic_relaxed,
    [".byte 0x66, 0x66, 0x66", "movq %fs:0, %rax", "{{disp32}} movq {offset}(%rax), %rcx"],
    offset = const OFFSET
);
rows!(
    descriptor_relaxed,
    ["movq ${offset}, %rax", "xchgw %ax, %ax", "movq %fs:(%rax), %rcx"],
    offset = const OFFSET
);
rows!(
    initial_exec,
    ["movq {slot}(%rip), %rax", "movq %fs:(%rax), %rcx"],
    slot = sym TP_OFFSET
);
rows!(
    general_dynamic,
    [
        ".byte 0x66",
        "leaq {index}(%rip), %rdi",
        ".byte 0x66, 0x66, 0x48",
        "call {get}",
        "movq (%rax), %rcx"
    ],
    index = sym INDEX,
    get = sym __tls_get_addr
);
rows!(
    local_dynamic,
    ["leaq {index}(%rip), %rdi", "call {get}", "{{disp32}} movq {offset}(%rax), %rcx"],
    index = sym INDEX,
    get = sym __tls_get_addr,
    offset = const 0
);
rows!(
    descriptor,
    ["leaq {descriptor}(%rip), %rax", "call *(%rax)", "movq %fs:(%rax), %rcx"],
    descriptor = sym DESCRIPTOR
);

/// Calls `get` so many rows of times.
#[unsafe(naked)]
pub unsafe extern "C" fn calls(times: usize, get: Get, index: *const TlsIndex) {
    naked_asm!(
        "push rbx",
        "push r12",
        "push r13",
        "mov rbx, rdi",
        "mov r12, rsi",
        "mov r13, rdx",
        ".p2align 5",
        "9:",
        ".rept {row}",
        "mov rdi, r13",
        "call r12",
        ".endr",
        "dec rbx",
        "jnz 9b",
        "pop r13",
        "pop r12",
        "pop rbx",
        "ret",
        row = const ROW,
    )
}

/// The same; each call waits for what the one before it found.
#[unsafe(naked)]
pub unsafe extern "C" fn chained_calls(times: usize, get: Get, index: *const TlsIndex) {
    naked_asm!(
        "push rbx",
        "push r12",
        "push r13",
        "mov rbx, rdi",
        "mov r12, rsi",
        "mov r13, rdx",
        "mov rdi, rdx",
        ".p2align 5",
        "9:",
        ".rept {row}",
        "call r12",
        "and rax, 0",
        "lea rdi, [r13 + rax]",
        ".endr",
        "dec rbx",
        "jnz 9b",
        "pop r13",
        "pop r12",
        "pop rbx",
        "ret",
        row = const ROW,
    )
}
