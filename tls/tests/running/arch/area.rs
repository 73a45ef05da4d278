//! Runs code with a task's area in the FS base.

use std::arch::asm;

use unspool_tls::Area;

/// The word `offset` bytes above TP.
#[inline(always)]
pub fn fs_word<const OFFSET: u32>() -> u64 {
    let word;
    // SAFETY: the C library's thread control block has these words, and so have areas'.
    unsafe {
        asm!("mov {}, fs:[{}]", out(reg) word, const OFFSET, options(nostack, preserves_flags));
    }
    word
}

fn set_fs_base(address: u64) {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_SET_FS: u64 = 0x1002;
    // SAFETY: sets the FS base of this thread; `on` keeps what needs the old one away.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => _,
            in("rdi") ARCH_SET_FS,
            in("rsi") address,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
}

/// Calls `act` with the FS base of an area. It must not panic, nor use the C library's
/// thread-local variables; the allocator does not.
#[inline(never)]
pub fn on(area: &Area<'_>, act: &mut dyn FnMut()) {
    let mine = fs_word::<0>();
    set_fs_base(area.thread_pointer().address());
    act();
    set_fs_base(mine);
}
