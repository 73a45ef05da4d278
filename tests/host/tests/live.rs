//! Live stacks of this process: our walk against the `unwinding` crate's, frame by frame.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Mutex;

use libc::{dl_iterate_phdr, dl_phdr_info, size_t};
use unspool_unwind::{
    Cursor, FdeIndex, Module, Modules, Pc, Register, Registers, Section, StackBounds, Step,
};
use unwinding::abi::{
    _Unwind_Backtrace, _Unwind_GetCFA, _Unwind_GetGR, _Unwind_GetIP, UnwindContext,
    UnwindReasonCode,
};

/// What both walks must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    ip: u64,
    saved: [u64; 6],
}

const SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// This process's modules, as the dynamic linker lists them.
fn modules() -> &'static Modules {
    extern "C" fn each(info: *mut dl_phdr_info, _size: size_t, table: *mut c_void) -> c_int {
        // SAFETY: the linker passes a valid entry, and `modules` a valid table.
        let (info, table) = unsafe { (&*info, &*table.cast::<Modules>()) };
        // SAFETY: the linker lists `dlpi_phnum` program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let loads = headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
        let low = loads.clone().map(|h| info.dlpi_addr + h.p_vaddr).min();
        let high = loads.map(|h| info.dlpi_addr + h.p_vaddr + h.p_memsz).max();
        let header = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME);
        if let (Some(low), Some(high), Some(header)) = (low, high, header) {
            let start = info.dlpi_addr + header.p_vaddr;
            // SAFETY: the segment is mapped, and stays so: nothing is unloaded here.
            let bytes = unsafe { memory(start, header.p_memsz) };
            // The pointer to .eh_frame: pcrel|sdata4 at offset 4, as every linker writes it.
            let relative = i32::from_le_bytes(bytes[4..8].try_into().unwrap());
            let eh_frame = (start + 4).wrapping_add_signed(relative.into());
            // .eh_frame ends with its terminator; the module's end is bound enough.
            // SAFETY: mapped up to the end of the segment that holds it.
            let data = unsafe {
                memory(eh_frame, segment_end(headers, info.dlpi_addr, eh_frame) - eh_frame)
            };
            let module = Module::new(low..high, Section::in_memory(data))
                .with_index(FdeIndex::Header(Section::in_memory(bytes)));
            // SAFETY: as above; and the tables are only walked by.
            let registration = unsafe { table.register(module) };
            std::mem::forget(registration.unwrap());
        }
        0
    }
    // Kept, so that nobody takes them for lost.
    static TABLES: Mutex<Vec<&'static Modules>> = Mutex::new(Vec::new());
    let table: &'static Modules = Box::leak(Box::new(Modules::new()));
    TABLES.lock().unwrap().push(table);
    // SAFETY: `each` gets the table it expects.
    unsafe { dl_iterate_phdr(Some(each), std::ptr::from_ref(table).cast_mut().cast()) };
    table
}

fn segment_end(headers: &[libc::Elf64_Phdr], base: u64, address: u64) -> u64 {
    let segment = headers.iter().find(|h| {
        h.p_type == libc::PT_LOAD
            && (base + h.p_vaddr..base + h.p_vaddr + h.p_memsz).contains(&address)
    });
    segment.map(|h| base + h.p_vaddr + h.p_memsz).unwrap()
}

/// # Safety
///
/// Mapped, and never unmapped.
unsafe fn memory(start: u64, length: u64) -> &'static [u8] {
    // SAFETY: this function's contract.
    unsafe { std::slice::from_raw_parts(start as *const u8, length as usize) }
}

/// The calling thread's stack.
fn stack() -> StackBounds {
    // SAFETY: plain calls of the C library on valid arguments.
    let (low, size) = unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes), 0);
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        (low as u64, size as u64)
    };
    // SAFETY: that is what the C library says of the running thread's stack.
    unsafe { StackBounds::new(low, low + size) }
}

#[inline(never)]
fn ours(modules: &Modules) -> Vec<Frame> {
    let registers = Registers::here();
    let mut cursor =
        Cursor::new(registers, Pc::Return(registers.ip()), stack().above(registers.sp()), modules);
    let mut frames = Vec::new();
    while let Step::Caller { .. } = cursor.step().expect("every frame here has tables") {
        let registers = cursor.registers();
        frames.push(Frame::of(registers));
    }
    // Registers are right whenever they are asked for: of every frame, of some, of the last one.
    for every in [1, 3, 50, usize::MAX] {
        let stack = stack().above(registers.sp());
        let mut cursor = Cursor::new(registers, Pc::Return(registers.ip()), stack, modules);
        let mut left = frames.iter().zip(1..);
        let end = cursor.walk(|frame| {
            let (expected, number) = left.next().expect("as many frames as by steps");
            assert_eq!(frame.pc().address(), expected.ip);
            if number % every == 0 {
                assert_eq!(Frame::of(frame.registers()), *expected);
            }
            ControlFlow::<()>::Continue(())
        });
        assert!(matches!(end, Ok(None)) && left.next().is_none());
        assert_eq!(frames.last().map(|last| last.saved), Some(saved(cursor.registers())));
    }
    frames
}

fn saved(registers: &Registers) -> [u64; 6] {
    SAVED.map(|register| registers.get(register))
}

impl Frame {
    fn of(registers: &Registers) -> Self {
        Self { ip: registers.ip(), saved: saved(registers) }
    }
}

#[inline(never)]
fn theirs() -> Vec<Frame> {
    extern "C" fn each(context: &UnwindContext<'_>, frames: *mut c_void) -> UnwindReasonCode {
        // SAFETY: `theirs` passes its vector.
        let frames = unsafe { &mut *frames.cast::<Vec<Frame>>() };
        let saved = SAVED.map(|r| _Unwind_GetGR(context, r.number() as c_int) as u64);
        frames.push(Frame { ip: _Unwind_GetIP(context) as u64, saved });
        black_box(_Unwind_GetCFA(context));
        UnwindReasonCode::NO_REASON
    }
    let mut frames = Vec::<Frame>::new();
    _Unwind_Backtrace(each, (&raw mut frames).cast());
    // The first is `theirs` itself, where ours starts with its caller.
    frames.remove(0);
    frames
}

/// Takes both walks from here and compares all frames above this function.
#[inline(never)]
fn compare(modules: &Modules, at_least: usize) {
    let (ours, theirs) = (ours(modules), theirs());
    // Both start in `compare`, at two different calls.
    assert_eq!(ours[1..], theirs[1..ours.len().max(1)], "ours, theirs");
    assert!(theirs.len() - ours.len() <= 1, "theirs may add a frame whose address is 0");
    assert!(ours.len() >= at_least, "only {} frames", ours.len());
}

#[test]
fn a_shallow_stack_agrees() {
    compare(modules(), 4);
}

#[inline(never)]
fn recurse(depth: usize, modules: &Modules, numbers: &mut [u64; 4]) -> u64 {
    if depth == 0 {
        compare(modules, 200);
        return 0;
    }
    numbers[depth % 4] += depth as u64;
    let result = recurse(depth - 1, modules, numbers);
    black_box(result + numbers[depth % 4])
}

#[test]
fn deep_recursion_agrees() {
    recurse(200, modules(), &mut [1; 4]);
}

#[test]
fn frames_of_the_c_library_agree() {
    extern "C" fn order(a: *const c_void, b: *const c_void) -> c_int {
        // SAFETY: `qsort` passes elements of the array.
        let (a, b) = unsafe { (*a.cast::<u32>(), *b.cast::<u32>()) };
        compare(modules(), 6);
        a.cmp(&b) as c_int
    }
    let mut numbers = [5u32, 3, 9, 1];
    // SAFETY: four elements of four bytes, compared as such.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 4, 4, Some(order)) };
    assert_eq!(numbers, [1, 3, 5, 9]);
}

#[test]
fn a_stack_with_a_signal_frame_agrees() {
    static MODULES: std::sync::OnceLock<&'static Modules> = std::sync::OnceLock::new();
    extern "C" fn handler(_signal: c_int) {
        compare(MODULES.get().unwrap(), 6);
    }
    MODULES.get_or_init(modules);
    // SAFETY: the handler only walks the stack it runs on.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as usize) };
    // SAFETY: raising a handled signal in this thread.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
}

#[test]
fn closures_generics_and_trait_objects_agree() {
    fn apply<T: Fn(u32) -> u32>(f: T, n: u32) -> u32 {
        f(n)
    }
    let table = modules();
    let boxed: Box<dyn Fn(u32) -> u32> = Box::new(|n| {
        let text: Vec<String> = (0..n)
            .map(|i| {
                apply(
                    |x| {
                        compare(table, 8);
                        x
                    },
                    i,
                )
                .to_string()
            })
            .collect();
        text.len() as u32
    });
    assert_eq!(apply(&*boxed, 3), 3);
}
