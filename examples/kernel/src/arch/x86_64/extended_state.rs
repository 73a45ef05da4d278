//! The registers that an interrupt frame does not have: x87, SSE, AVX, AVX-512.
//!
//! ```text
//!   XSAVE area (Intel SDM volume 1, §13.4)
//!   │ legacy: x87, SSE (512) │ header (64) │ AVX │ opmask │ ZMM_Hi256 │ Hi16_ZMM │
//! ```
//!
//! A CPU without XSAVE has FXSAVE's 512 bytes. Protection keys belong to nobody here, and nobody
//! here uses AMX tiles.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// CPUID leaf 1, ecx: XSAVE exists, and is switched on.
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
/// CPUID leaf 7, ebx.
const AVX512F: u32 = 1 << 16;
/// CPUID leaf 1, ecx.
const AVX: u32 = 1 << 28;

/// Bytes of the legacy part and of the header.
const LEGACY: u64 = 512;
pub(super) const HEADER: usize = 64;

/// x87, SSE, AVX, and the three of AVX-512.
const WANTED: u64 = 0b1110_0111;

/// Which components are saved; 0: by FXSAVE.
pub(super) static COMPONENTS: AtomicU64 = AtomicU64::new(0);
/// Bytes of the area, a multiple of 64.
pub(super) static SIZE: AtomicU64 = AtomicU64::new(LEGACY);

/// Switches on what this CPU has; a kernel's part.
pub(super) fn enable() {
    let features = __cpuid(1).ecx;
    if features & XSAVE == 0 {
        return;
    }
    // SAFETY: the CPU has it, and every switch saves what it makes usable.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE)) };
    let mut components = XCr0Flags::X87 | XCr0Flags::SSE;
    if features & AVX != 0 {
        components |= XCr0Flags::AVX;
        if __cpuid_count(7, 0).ebx & AVX512F != 0 {
            components |= XCr0Flags::OPMASK | XCr0Flags::ZMM_HI256 | XCr0Flags::HI16_ZMM;
        }
    }
    // SAFETY: as above.
    unsafe { XCr0::write(components) };
}

/// Finds out what is to be saved; once, after [`enable`].
pub(super) fn measure() {
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return;
    }
    // SAFETY: the system has switched it on.
    let components = unsafe { xcr0() } & WANTED;
    // Intel SDM volume 1, §13.2: size and offset of each component in the standard format.
    let end = (2..u64::BITS).filter(|n| components & 1 << n != 0).map(|n| {
        let leaf = __cpuid_count(0xd, n);
        u64::from(leaf.eax) + u64::from(leaf.ebx)
    });
    let size = end.max().unwrap_or(0).max(LEGACY + HEADER as u64);
    COMPONENTS.store(components, Ordering::Relaxed);
    SIZE.store(size.next_multiple_of(HEADER as u64), Ordering::Relaxed);
}

/// The components that are switched on.
///
/// # Safety
///
/// XSAVE is switched on.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { _xgetbv(0) }
}
