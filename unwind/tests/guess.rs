//! Walks this program's stack through code without tables.
//!
//! ```text
//!   test ─► bare (no CFI, push rbp) ─► inner ─► Cursor, _Unwind_Backtrace
//! ```

use std::arch::global_asm;
use std::ffi::{c_int, c_void};
use std::hint::black_box;

use libc::{dl_iterate_phdr, dl_phdr_info, size_t};
use unspool_unwind::abi::_Unwind_Backtrace;
use unspool_unwind::{
    Context, Cursor, Environment, FdeIndex, FrameKind, Module, Pc, Reason, Registers, Section,
    StackBounds, Step, UnwindError, global, register, set_environment,
};

// A function as compilers make it with frame pointers and without tables.
global_asm!(
    ".pushsection .text.unspool_bare, \"ax\", @progbits",
    ".globl unspool_bare",
    "unspool_bare:",
    "push rbp",
    "mov rbp, rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "pop rbp",
    "ret",
    "unspool_bare_end:",
    ".globl unspool_bare_end",
    ".popsection",
);

unsafe extern "C" {
    fn unspool_bare(call: *const c_void, argument: *mut c_void);
    safe static unspool_bare_end: u8;
}

/// Addresses of a walk, and which frames were guessed.
type Frames = Vec<(u64, FrameKind)>;

/// Calls `inner` through the bare function.
fn through_bare(inner: extern "C" fn(&mut Frames)) -> Frames {
    let mut frames = Frames::new();
    // SAFETY: it calls the function with its argument.
    unsafe { unspool_bare(inner as *const c_void, (&raw mut frames).cast()) };
    frames
}

/// Registers the modules of this process that have a search table.
fn modules() {
    extern "C" fn each(info: *mut dl_phdr_info, _size: size_t, _: *mut c_void) -> c_int {
        // SAFETY: the linker passes a valid entry.
        let info = unsafe { &*info };
        // SAFETY: the linker lists `dlpi_phnum` program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let range = |header: &libc::Elf64_Phdr| {
            let start = info.dlpi_addr + header.p_vaddr;
            start..start + header.p_memsz
        };
        let loads = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD).map(range);
        let Some(table) = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME) else {
            return 0;
        };
        let table = range(table);
        // SAFETY: the segment is mapped, and stays so: nothing is unloaded here.
        let header = unsafe { memory(table.start, table.end) };
        // The pointer to .eh_frame: pcrel|sdata4 at offset 4, as every linker writes it.
        let relative = i32::from_le_bytes(header[4..8].try_into().unwrap());
        let start = (table.start + 4).wrapping_add_signed(relative.into());
        let segment = loads().find(|segment| segment.contains(&start)).unwrap();
        // SAFETY: mapped up to the end of the segment that holds it.
        let eh_frame = unsafe { memory(start, segment.end) };
        let low = loads().map(|segment| segment.start).min().unwrap();
        let high = loads().map(|segment| segment.end).max().unwrap();
        let module = Module::new(low..high, Section::in_memory(eh_frame))
            .with_index(FdeIndex::Header(Section::in_memory(header)));
        // SAFETY: the linker vouches for them; and they are only walked by.
        std::mem::forget(unsafe { register(module) }.unwrap());
        0
    }
    static REGISTERED: std::sync::Once = std::sync::Once::new();
    // SAFETY: `each` needs no argument.
    REGISTERED.call_once(|| _ = unsafe { dl_iterate_phdr(Some(each), std::ptr::null_mut()) });
}

/// # Safety
///
/// Mapped, and never unmapped or written.
unsafe fn memory(start: u64, end: u64) -> &'static [u8] {
    // SAFETY: this function's contract.
    unsafe { std::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
}

fn stack(sp: u64) -> StackBounds {
    // SAFETY: plain calls of the C library on valid arguments.
    let high = unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes), 0);
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        low as u64 + size as u64
    };
    // SAFETY: that is what the C library says of the running thread's stack.
    unsafe { StackBounds::new(sp, high) }
}

fn is_bare(ip: u64) -> bool {
    let end = (&raw const unspool_bare_end).addr() as u64;
    (unspool_bare as *const () as u64..=end).contains(&ip)
}

/// The walk from here.
#[inline(never)]
fn walk(guessing: bool) -> (Frames, Result<Step, UnwindError>) {
    let registers = Registers::here();
    let modules = global();
    let pc = Pc::Return(registers.ip());
    let cursor = Cursor::new(registers, pc, stack(registers.sp()), modules);
    let mut cursor = if guessing { cursor.with_guesses() } else { cursor };
    let mut frames = Frames::new();
    loop {
        frames.push((cursor.pc().address(), cursor.kind()));
        match cursor.step() {
            Ok(Step::Caller { .. }) => {}
            ended => return (frames, ended),
        }
    }
}

#[test]
fn a_walk_goes_through_code_without_tables_if_it_may_guess() {
    extern "C" fn inner(frames: &mut Frames) {
        let (known, ended) = walk(false);
        let last = known.last().unwrap().0;
        assert!(is_bare(last), "tables lead to the bare function");
        assert_eq!(ended, Err(UnwindError::NoFde(last - 1)));
        let ended;
        (*frames, ended) = walk(true);
        assert_eq!(ended, Ok(Step::End));
        black_box(frames);
    }
    modules();
    let (above, _) = walk(false);
    let frames = through_bare(inner);
    let bare = frames.iter().position(|&(ip, _)| is_bare(ip)).unwrap();
    assert!(frames[..=bare].iter().all(|&(_, kind)| kind == FrameKind::Known));
    let [(_, guessed), rest @ ..] = &frames[bare + 1..] else { panic!("nothing beyond") };
    assert_eq!(*guessed, FrameKind::Guess);
    assert!(rest.iter().all(|&(_, kind)| kind == FrameKind::Known));
    // This function calls from two places; what called it is the same.
    assert!(rest.len() > 3 && above.ends_with(rest), "{rest:x?}, {above:x?}");
}

static PLAIN: Environment = Environment::new(stack, |error| panic!("{error}"));
static GUESSING: Environment = PLAIN.with_guesses();

#[test]
fn a_backtrace_guesses_only_if_the_environment_asks() {
    unsafe extern "C" fn note(context: &mut Context, frames: *mut c_void) -> Reason {
        // SAFETY: `inner` passes its vector.
        let frames = unsafe { &mut *frames.cast::<Frames>() };
        frames.push((context.pc().address(), context.kind()));
        Reason::NO_REASON
    }
    extern "C" fn inner(frames: &mut Frames) {
        // SAFETY: `note` takes the vector.
        let reason = unsafe { _Unwind_Backtrace(note, std::ptr::from_mut(frames).cast()) };
        assert_eq!(reason, Reason::END_OF_STACK);
    }
    modules();
    let [plain, guessing] = [&PLAIN, &GUESSING].map(|environment| {
        set_environment(environment);
        through_bare(inner)
    });
    assert!(is_bare(plain.last().unwrap().0), "without asking, it ends there");
    assert_eq!(plain[..], guessing[..plain.len()]);
    assert_eq!(guessing[plain.len()].1, FrameKind::Guess);
    let rest = &guessing[plain.len() + 1..];
    assert!(rest.len() > 3 && rest.iter().all(|&(_, kind)| kind == FrameKind::Known));
}
