//! A task's own static on stable Rust: initialised by the compiler, reached by the linker's offset.
//!
//! ```text
//!  static SLOT: Slot<T> in .tdata.*  ─► LLVM: a section with SHF_TLS
//!  .type SLOT, @tls_object           ─► its symbol is STT_TLS; its value, an offset
//!  fs:0 + SLOT@gottpoff              ─► where this task's copy is
//! ```
//!
//! Rust code never names the static but to have its symbol, so nothing takes the template for the
//! variable.
//!
//! The access is the initial-exec sequence of *ELF Handling For Thread-Local Storage* (§4.3.6),
//! which is right everywhere: where the offset is known, linkers rewrite it to local exec (§5.5),
//! and so does `unspool_loader`. An object that uses it needs static TLS space when it is loaded.

use core::cell::UnsafeCell;

/// The template of a task's own static.
#[doc(hidden)]
#[repr(transparent)]
pub struct Slot<T>(UnsafeCell<T>);

// SAFETY: The template is never accessed; what a task accesses is its own copy.
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// The initial value of every task's copy.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}

/// Where the running task's copy of a static of this type and initial value is.
///
/// The marker is never called. As a naked function of the module the static is in, it is emitted
/// into the same object file, and there it says what kind of symbol the static's is.
#[doc(hidden)]
#[macro_export]
macro_rules! __thread_local_static {
    ($T:ty, $initial:expr) => {{
        #[unsafe(link_section = ".tdata.unspool")]
        static __UNSPOOL_SLOT: $crate::__private::Slot<$T> =
            $crate::__private::Slot::new($initial);
        #[unsafe(naked)]
        extern "C" fn __unspool_marker() {
            ::core::arch::naked_asm!(".type {}, @tls_object", "ud2", sym __UNSPOOL_SLOT)
        }
        let __unspool_address: *const $T;
        // SAFETY: `fs:0` holds TP in every task, and the symbol's offset from it leads to the
        // task's copy. The comment has the marker emitted; flags are all that is changed besides.
        unsafe {
            ::core::arch::asm!(
                "/* {marker} */",
                "mov {address}, qword ptr fs:[0]",
                "add {address}, qword ptr [rip + {slot}@gottpoff]",
                address = out(reg) __unspool_address,
                slot = sym __UNSPOOL_SLOT,
                marker = sym __unspool_marker,
                options(pure, nomem, nostack),
            );
        }
        // SAFETY: No task's memory is at null.
        unsafe { $crate::__private::assert_unchecked(!__unspool_address.is_null()) };
        __unspool_address
    }};
}
