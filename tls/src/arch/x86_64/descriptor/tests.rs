//! Calls resolvers with known values in all registers, on a task's area.

use std::boxed::Box;
use std::sync::OnceLock;
use std::vec::Vec;

use super::*;
use crate::abi::{dynamic_descriptor, static_descriptor};
use crate::layout::Template;
use crate::registry::{Area, Registry};

/// Everything that a resolver has to keep.
#[repr(C, align(64))]
#[derive(Clone, PartialEq, Debug)]
struct Registers {
    /// `rax` (the result), `rcx`, `rdx`, `rsi`, `rdi`, `rbx`, `rbp`, `r8` to `r15`, flags.
    general: [u64; 16],
    /// As many and as wide as there are.
    vector: [[u64; 8]; 32],
    mask: [u64; 8],
}

impl Registers {
    /// Different bytes everywhere, nothing of it where the processor has none.
    fn known(width: Width) -> Self {
        let mut next = 0x0123_4567_89ab_cdef_u64;
        let mut value = || {
            next = next.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            next
        };
        let mut registers = Self { general: [0; 16], vector: [[0; 8]; 32], mask: [0; 8] };
        registers.general = core::array::from_fn(|_| value());
        // Carry, parity, adjust, zero, sign and overflow, next to what is always set.
        registers.general[15] = 0x8d5 | 0x202;
        let (count, words) = match width {
            Width::Xmm => (16, 2),
            Width::Ymm => (16, 4),
            Width::Zmm => (32, 8),
        };
        for register in &mut registers.vector[..count] {
            register[..words].fill_with(&mut value);
        }
        if let Width::Zmm = width {
            registers.mask = core::array::from_fn(|_| value());
        }
        registers
    }
}

/// The trap flag.
const TRAP: u64 = 1 << 8;

#[derive(Clone, Copy, Debug)]
enum Width {
    Xmm,
    Ymm,
    Zmm,
}

/// The widths that this processor has.
fn widths() -> Vec<Width> {
    let mut widths = std::vec![Width::Xmm];
    widths.extend(std::is_x86_feature_detected!("avx").then_some(Width::Ymm));
    widths.extend(std::is_x86_feature_detected!("avx512bw").then_some(Width::Zmm));
    widths
}

/// A function that loads `registers`, calls through the descriptor in `rax`, and stores what it
/// finds; the block of vector instructions differs.
macro_rules! caller {
    ($name:ident, $load:literal, $store:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(registers: *mut Registers, descriptor: *const [u64; 2]) {
            naked_asm!(
                "push rbx",
                "push rbp",
                "push r12",
                "push r13",
                "push r14",
                "push r15",
                "push rdi",
                "mov rax, rsi",
                $load,
                "push [rdi + 15 * 8]",
                "popfq",
                "mov rcx, [rdi + 1 * 8]",
                "mov rdx, [rdi + 2 * 8]",
                "mov rsi, [rdi + 3 * 8]",
                "mov rbx, [rdi + 5 * 8]",
                "mov rbp, [rdi + 6 * 8]",
                "mov r8, [rdi + 7 * 8]",
                "mov r9, [rdi + 8 * 8]",
                "mov r10, [rdi + 9 * 8]",
                "mov r11, [rdi + 10 * 8]",
                "mov r12, [rdi + 11 * 8]",
                "mov r13, [rdi + 12 * 8]",
                "mov r14, [rdi + 13 * 8]",
                "mov r15, [rdi + 14 * 8]",
                "mov rdi, [rdi + 4 * 8]",
                "call [rax]",
                "xchg rdi, [rsp]",
                "mov [rdi + 0 * 8], rax",
                "mov [rdi + 1 * 8], rcx",
                "mov [rdi + 2 * 8], rdx",
                "mov [rdi + 3 * 8], rsi",
                "mov [rdi + 5 * 8], rbx",
                "mov [rdi + 6 * 8], rbp",
                "mov [rdi + 7 * 8], r8",
                "mov [rdi + 8 * 8], r9",
                "mov [rdi + 9 * 8], r10",
                "mov [rdi + 10 * 8], r11",
                "mov [rdi + 11 * 8], r12",
                "mov [rdi + 12 * 8], r13",
                "mov [rdi + 13 * 8], r14",
                "mov [rdi + 14 * 8], r15",
                "pushfq",
                "pop [rdi + 15 * 8]",
                $store,
                "pop [rdi + 4 * 8]",
                // What follows is compiled code.
                "push 0x202",
                "popfq",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "pop rbp",
                "pop rbx",
                "ret",
            )
        }
    };
}

caller!(
    call_with_xmm,
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
     movups xmm\\n, [rdi + 128 + 64 * \\n]
     .endr",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
     movups [rdi + 128 + 64 * \\n], xmm\\n
     .endr"
);
caller!(
    call_with_ymm,
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
     vmovups ymm\\n, [rdi + 128 + 64 * \\n]
     .endr",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
     vmovups [rdi + 128 + 64 * \\n], ymm\\n
     .endr
     vzeroupper"
);
caller!(
    call_with_zmm,
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
     vmovups zmm\\n, [rdi + 128 + 64 * \\n]
     .endr
     .irp n, 0,1,2,3,4,5,6,7
     kmovq k\\n, [rdi + 128 + 2048 + 8 * \\n]
     .endr",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
     vmovups [rdi + 128 + 64 * \\n], zmm\\n
     .endr
     .irp n, 0,1,2,3,4,5,6,7
     kmovq [rdi + 128 + 2048 + 8 * \\n], k\\n
     .endr
     vzeroupper"
);

/// Changes every register that code may change, the widest there are, then makes the block.
///
/// # Safety
/// As [`make_block`].
unsafe extern "C" fn make_block_and_a_mess(index: *const TlsIndex) -> *mut u8 {
    // SAFETY: The function says what it changes, as far as compilers know about it; the rest is
    // changed on processors that have it.
    unsafe { MESS.get().unwrap()() };
    // SAFETY: The contract is the same.
    unsafe { make_block(index) }
}

static MESS: OnceLock<unsafe extern "C" fn()> = OnceLock::new();

macro_rules! mess {
    ($name:ident, $code:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                $code,
                "mov rcx, -1",
                "mov rdx, rcx",
                "mov rsi, rcx",
                "mov rdi, rcx",
                "mov r8, rcx",
                "mov r9, rcx",
                "mov r10, rcx",
                "mov r11, rcx",
                "xor eax, eax",
                "ret",
            )
        }
    };
}

mess!(
    mess_of_xmm,
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
     pcmpeqd xmm\\n, xmm\\n
     .endr"
);
mess!(mess_of_ymm, "vzeroall");
mess!(
    mess_of_zmm,
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
     vpternlogd zmm\\n, zmm\\n, zmm\\n, 0xff
     .endr
     .irp n, 0,1,2,3,4,5,6,7
     kxnorq k\\n, k\\n, k\\n
     .endr"
);

dynamic_resolver!(resolve_with_mess, STATE, make_block_and_a_mess);

/// A processor whose system does not use XSAVE.
static OLD: State = State { mask: AtomicU64::new(0), size: AtomicUsize::new(FXSAVE) };
dynamic_resolver!(resolve_with_fxsave, OLD, make_block_and_a_mess);

fn set_fs_base(address: u64) {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_SET_FS: u64 = 0x1002;
    let result: i64;
    // SAFETY: Sets the FS base of this thread; `call` keeps what needs the old one away.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_SET_FS,
            in("rsi") address,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    debug_assert_eq!(result, 0);
}

/// What is in the registers after a call through `descriptor` on a task with this area.
#[inline(never)]
fn call(area: &Area<'_>, width: Width, descriptor: &[u64; 2]) -> Registers {
    let mut registers = Registers::known(width);
    let call = match width {
        Width::Xmm => call_with_xmm,
        Width::Ymm => call_with_ymm,
        Width::Zmm => call_with_zmm,
    };
    let mine = super::super::thread_pointer().addr() as u64;
    set_fs_base(area.thread_pointer().address());
    // SAFETY: The function keeps to the C ABI. Nothing between the two changes of the FS base uses
    // thread-local variables or allocates: blocks of static modules need no memory.
    unsafe { call(&raw mut registers, descriptor) };
    set_fs_base(mine);
    // Not the program's: set where this is executed step by step.
    registers.general[15] &= !TRAP;
    registers
}

fn prepare_mess() {
    MESS.get_or_init(|| match widths().last() {
        Some(Width::Zmm) => mess_of_zmm,
        Some(Width::Ymm) => mess_of_ymm,
        _ => mess_of_xmm,
    });
}

/// Calls through a descriptor twice on a new area, and compares the registers.
fn check(width: Width, area: &Area<'_>, descriptor: [u64; 2], offset: u64) {
    for time in ["first", "second"] {
        let mut expected = Registers::known(width);
        expected.general[0] = offset;
        let found = call(area, width, &descriptor);
        assert_eq!(found.general, expected.general, "{width:?}, {time} call");
        assert!(found == expected, "{width:?}, {time} call: vector registers");
    }
}

fn registry() -> Registry {
    Registry::new(Template::EMPTY, 4096).unwrap()
}

#[test]
fn the_static_resolver_keeps_all_registers() {
    let registry = registry();
    let module = registry.reserve(64, 64).unwrap().publish(&[]).unwrap();
    for width in widths() {
        let area = registry.new_area(0).unwrap();
        let descriptor = static_descriptor(module.offset(), 24);
        check(width, &area, descriptor, (-64_i64 + 24).cast_unsigned());
    }
}

#[test]
fn the_dynamic_resolver_keeps_all_registers_with_and_without_a_block_to_make() {
    prepare_mess();
    let registry = registry();
    let module = registry.reserve(64, 64).unwrap().publish(&[]).unwrap();
    let index = TlsIndex { module: module.module().get(), offset: 8 };
    let [_, argument] = dynamic_descriptor(&raw const index);
    for width in widths() {
        let area = registry.new_area(0).unwrap();
        let descriptor = [resolve_with_mess as *const () as u64, argument];
        check(width, &area, descriptor, (-64_i64 + 8).cast_unsigned());
    }
}

#[test]
fn without_xsave_the_registers_that_can_be_in_use_are_kept() {
    prepare_mess();
    let registry = registry();
    let module = registry.reserve(64, 64).unwrap().publish(&[]).unwrap();
    let index = TlsIndex { module: module.module().get(), offset: 0 };
    let argument = (&raw const index).expose_provenance() as u64;
    let area = registry.new_area(0).unwrap();
    let descriptor = [resolve_with_fxsave as *const () as u64, argument];
    check(Width::Xmm, &area, descriptor, (-64_i64).cast_unsigned());
}

#[test]
fn a_block_made_beforehand_is_found() {
    let registry = registry();
    let module = registry.add_dynamic(b"dynamic", 4096, 4096).unwrap();
    let index = Box::new(TlsIndex { module: module.module().get(), offset: 5 });
    let descriptor = dynamic_descriptor(&raw const *index);
    let area = registry.new_area(0).unwrap();
    let block = area.prepare(module.module()).unwrap();
    assert_eq!(block.addr() % 4096, 0);
    let offset = (block.addr() as u64 + 5).wrapping_sub(area.thread_pointer().address());
    for width in widths() {
        check(width, &area, descriptor, offset);
    }
}

#[test]
fn the_state_to_save_includes_what_this_processor_has() {
    STATE.measure();
    let (mask, size) = (STATE.mask.load(Ordering::Relaxed), STATE.size.load(Ordering::Relaxed));
    assert_eq!(mask & 3, 3, "x87 and SSE");
    assert_eq!(mask >> 2 & 1 == 1, std::is_x86_feature_detected!("avx"));
    assert_eq!(mask >> 5 & 7 == 7, std::is_x86_feature_detected!("avx512f"));
    assert_eq!(mask & (3 << 17), 0, "no tiles");
    assert!((FXSAVE + HEADER..=4096).contains(&size), "{size}");
}
