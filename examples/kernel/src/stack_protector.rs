//! What code with stack protectors calls when its canary is gone.
//!
//! ```text
//!   │ locals … │ canary │ saved registers │ return address │
//!              ▲ fs:0x28 at entry; compared before the return
//! ```

/// Reports that a function has overrun its frame. Its return address cannot be trusted, so this
/// ends the program: a panic does not leave a C function.
#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    panic!("stack smashing detected")
}
