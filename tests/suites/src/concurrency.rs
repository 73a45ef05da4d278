//! Preemption and several CPUs: nobody starves, nothing is lost, nothing is mixed up.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::cell::Cell;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use unspool::loader::Stacks;
use unspool::panic::{AssertUnwindSafe, catch_unwind, platform, resume_unwind};
use unspool::thread_local;
use unspool_kernel::cpu::{self, NoPreemption};
use unspool_kernel::fault::FaultInfo;
use unspool_kernel::sync::Mutex;
use unspool_kernel::task::{self, Builder, JoinHandle};
use unspool_kernel::walk::AllStacks;

use crate::support::footprint;

crate::tests![
    tasks_that_never_yield_all_make_progress,
    all_cpus_run_tasks,
    a_task_with_the_smallest_stack_is_preempted,
    a_task_that_switched_preemption_off_keeps_its_cpu,
    sse_registers_and_the_red_zone_survive_preemption,
    avx_registers_survive_preemption,
    flags_survive_preemption,
    floating_point_work_of_many_tasks_is_exact,
    thread_locals_stay_with_their_task_on_every_cpu,
    panics_on_all_cpus_at_once_are_caught_where_they_belong,
    traces_on_all_cpus_at_once_reach_the_outermost_frame,
    faults_in_some_tasks_leave_the_others_alone,
    a_mutex_keeps_tasks_apart,
    a_mutex_survives_a_panic_of_its_holder,
    no_unpark_is_lost,
    everyone_who_joins_in_a_chain_wakes,
    ten_thousand_tasks_leave_nothing_behind,
    code_on_the_stack_of_any_task_is_found,
];

/// Tasks at once: more than there are CPUs.
const MANY: usize = 8;

/// Runs `body` in [`MANY`] tasks at once, with their numbers, and collects what they return.
fn in_many<T: Send + 'static>(body: impl Fn(usize) -> T + Clone + Send + 'static) -> Vec<T> {
    let spawn = |n| {
        let body = body.clone();
        task::spawn("many", move || body(n))
    };
    let tasks: Vec<JoinHandle<T>> = (0..MANY).map(spawn).collect();
    tasks.into_iter().map(|task| task.join().unwrap()).collect()
}

fn tasks_that_never_yield_all_make_progress() {
    static ROUNDS: [AtomicU32; MANY] = [const { AtomicU32::new(0) }; MANY];
    in_many(|mine| {
        // Ends only if every other task gets to run, although none of them gives way.
        while ROUNDS.iter().any(|rounds| rounds.load(Ordering::Relaxed) < 1000) {
            ROUNDS[mine].fetch_add(1, Ordering::Relaxed);
        }
    });
}

fn all_cpus_run_tasks() {
    let seen = Arc::new(AtomicU32::new(0));
    let everyone = (1u32 << cpu::count()) - 1;
    in_many(move |_| {
        while seen.fetch_or(1 << cpu::current(), Ordering::Relaxed) != everyone {
            core::hint::spin_loop();
        }
    });
}

fn a_task_with_the_smallest_stack_is_preempted() {
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let spins = |_| Builder::new("small").stack_size(1).spawn(|| spin_until(&STOP)).unwrap();
    let tasks: Vec<_> = (0..2 * cpu::count()).map(spins).collect();
    // They have all CPUs from here on, unless a tick takes one away.
    (0..10).for_each(|_| task::yield_now());
    STOP.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| _ = task.join().unwrap());
}

fn a_task_that_switched_preemption_off_keeps_its_cpu() {
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let noise: Vec<_> = (0..MANY).map(|_| task::spawn("noise", || spin_until(&STOP))).collect();
    let moved = task::spawn("stays", || {
        let _preemption = NoPreemption::new();
        let here = cpu::current();
        (0..200_000).filter(|_| cpu::current() != here).count()
    });
    let moved = moved.join();
    STOP.store(true, Ordering::Relaxed);
    for task in noise {
        task.join().unwrap();
    }
    assert_eq!(moved.unwrap(), 0);
}

/// Loops in the assembly of the next tests: some ticks' worth.
const SPINS: u64 = 20_000_000;

fn sse_registers_and_the_red_zone_survive_preemption() {
    let wrong = in_many(|mine| {
        let mut words: [u64; 32] = core::array::from_fn(|n| (mine * 1000 + n) as u64);
        let before = words;
        let mut wrong: u64 = 0;
        // SAFETY: uses nothing but the registers it names, its buffer and the red zone.
        unsafe {
            asm!(
                "movups xmm0, [{words}]", "movups xmm1, [{words} + 16]",
                "movups xmm2, [{words} + 32]", "movups xmm3, [{words} + 48]",
                "movups xmm4, [{words} + 64]", "movups xmm5, [{words} + 80]",
                "movups xmm6, [{words} + 96]", "movups xmm7, [{words} + 112]",
                "movups xmm8, [{words} + 128]", "movups xmm9, [{words} + 144]",
                "movups xmm10, [{words} + 160]", "movups xmm11, [{words} + 176]",
                "movups xmm12, [{words} + 192]", "movups xmm13, [{words} + 208]",
                "movups xmm14, [{words} + 224]", "movups xmm15, [{words} + 240]",
                "mov [rsp - 8], {words}", "mov [rsp - 64], {words}", "mov [rsp - 128], {words}",
                "2:",
                "cmp [rsp - 8], {words}", "jne 3f",
                "cmp [rsp - 64], {words}", "jne 3f",
                "cmp [rsp - 128], {words}", "jne 3f",
                "dec {spins}",
                "jnz 2b",
                "jmp 4f",
                "3:", "inc {wrong}",
                "4:",
                "movups [{words}], xmm0", "movups [{words} + 16], xmm1",
                "movups [{words} + 32], xmm2", "movups [{words} + 48], xmm3",
                "movups [{words} + 64], xmm4", "movups [{words} + 80], xmm5",
                "movups [{words} + 96], xmm6", "movups [{words} + 112], xmm7",
                "movups [{words} + 128], xmm8", "movups [{words} + 144], xmm9",
                "movups [{words} + 160], xmm10", "movups [{words} + 176], xmm11",
                "movups [{words} + 192], xmm12", "movups [{words} + 208], xmm13",
                "movups [{words} + 224], xmm14", "movups [{words} + 240], xmm15",
                words = in(reg) &raw mut words,
                spins = inout(reg) SPINS / 4 => _,
                wrong = inout(reg) wrong,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                out("xmm15") _,
            );
        }
        wrong + u64::from(words != before)
    });
    assert_eq!(wrong, [0; MANY]);
}

/// Also flags with which no handler, nor what it goes on in, could run.
fn flags_survive_preemption() {
    const DIRECTION: u64 = 1 << 10;
    const NESTED_TASK: u64 = 1 << 14;
    const ALIGNMENT_CHECK: u64 = 1 << 18;
    let odd = DIRECTION | NESTED_TASK | ALIGNMENT_CHECK;
    let all = in_many(move |_| {
        let mut flags = odd;
        // SAFETY: uses nothing but the registers it names and the stack; the flags are as before.
        unsafe {
            asm!(
                "pushfq",
                "pushfq",
                "or [rsp], {flags}",
                "popfq",
                "2:",
                "dec {spins}",
                "jnz 2b",
                "pushfq",
                "pop {flags}",
                "popfq",
                flags = inout(reg) flags,
                spins = inout(reg) SPINS => _,
            );
        }
        flags & odd
    });
    assert_eq!(all, [odd; MANY]);
}

/// Whether AVX is there and switched on.
fn has_avx() -> bool {
    const AVX_AND_OSXSAVE: u32 = 1 << 28 | 1 << 27;
    __cpuid(1).ecx & AVX_AND_OSXSAVE == AVX_AND_OSXSAVE
}

fn avx_registers_survive_preemption() {
    if !has_avx() {
        return;
    }
    let wrong = in_many(|mine| {
        let mut words: [u64; 16] = core::array::from_fn(|n| (mine * 1000 + n) as u64);
        let before = words;
        // SAFETY: the CPU has AVX, and only the buffer and the named registers are used.
        unsafe {
            asm!(
                "vmovups ymm0, [{words}]", "vmovups ymm5, [{words} + 32]",
                "vmovups ymm10, [{words} + 64]", "vmovups ymm15, [{words} + 96]",
                "2:",
                "dec {spins}",
                "jnz 2b",
                "vmovups [{words}], ymm0", "vmovups [{words} + 32], ymm5",
                "vmovups [{words} + 64], ymm10", "vmovups [{words} + 96], ymm15",
                "vzeroupper",
                words = in(reg) &raw mut words,
                spins = inout(reg) SPINS => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                out("xmm15") _,
            );
        }
        words != before
    });
    assert_eq!(wrong, [false; MANY]);
}

fn floating_point_work_of_many_tasks_is_exact() {
    fn series(start: f64) -> u64 {
        let mut sum = start;
        for n in 1..200_000 {
            sum += black_box(1.0 / f64::from(n)) * (sum - 1.0) / (sum + 3.0);
        }
        sum.to_bits()
    }
    let alone: Vec<u64> = {
        let _preemption = NoPreemption::new();
        (0..MANY).map(|n| series(n as f64)).collect()
    };
    assert_eq!(in_many(|mine| series(mine as f64)), alone);
}

fn thread_locals_stay_with_their_task_on_every_cpu() {
    #[thread_local]
    static PLAIN: Cell<usize> = Cell::new(0);
    thread_local! {
        static LAZY: Cell<usize> = Cell::new(0);
    }
    let counts = in_many(|mine| {
        for round in 0..50_000 {
            PLAIN.set(PLAIN.get() + mine);
            LAZY.set(LAZY.get() + mine);
            if round % 1000 == 0 {
                task::yield_now();
            }
        }
        (PLAIN.get(), LAZY.get())
    });
    for (mine, count) in counts.into_iter().enumerate() {
        assert_eq!(count, (mine * 50_000, mine * 50_000));
    }
}

/// Counts its drops, and gives way now and then.
struct Counted<'c>(&'c AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
            task::yield_now();
        }
    }
}

#[inline(never)]
fn throw_from(depth: u32, drops: &AtomicUsize, payload: u64) -> u64 {
    let _counted = Counted(drops);
    if depth == 0 {
        resume_unwind(Box::new(payload));
    }
    black_box(throw_from(depth - 1, drops, payload)) + 1
}

fn panics_on_all_cpus_at_once_are_caught_where_they_belong() {
    const ROUNDS: u64 = 1000;
    in_many(|mine| {
        let drops = AtomicUsize::new(0);
        for round in 0..ROUNDS {
            let payload = (mine as u64) << 32 | round;
            let caught = catch_unwind(AssertUnwindSafe(|| throw_from(9, &drops, payload)));
            assert_eq!(caught.unwrap_err().downcast_ref::<u64>(), Some(&payload));
        }
        assert_eq!(drops.into_inner() as u64, 10 * ROUNDS);
    });
}

fn traces_on_all_cpus_at_once_reach_the_outermost_frame() {
    use unspool::backtrace::{Captured, End, trace};
    in_many(|_| {
        for _ in 0..500 {
            assert_eq!(Captured::<64>::take(trace()).end(), End::Outermost);
        }
    });
}

fn faults_in_some_tasks_leave_the_others_alone() {
    let style = unspool::panic::get_backtrace_style().unwrap();
    unspool::panic::set_backtrace_style(unspool::panic::BacktraceStyle::Off);
    let outcomes = in_many(|mine| {
        let mut sum = 0;
        for round in 0..3u64 {
            if mine.is_multiple_of(2) {
                sum += (0..20_000).fold(round, |sum, n| black_box(sum ^ n));
                continue;
            }
            let byte = core::ptr::with_exposed_provenance::<u8>(8);
            // SAFETY: not at all: the access faults, which is what is tested.
            let fault = catch_unwind(|| unsafe { black_box(byte).read_volatile() });
            assert!(fault.unwrap_err().is::<FaultInfo>());
        }
        sum
    });
    unspool::panic::set_backtrace_style(style);
    assert_eq!(outcomes.len(), MANY);
}

fn a_mutex_keeps_tasks_apart() {
    const ROUNDS: u64 = 5000;
    let pair = Arc::new(Mutex::new((0u64, 0u64)));
    let theirs = Arc::clone(&pair);
    in_many(move |_| {
        for round in 0..ROUNDS {
            let mut pair = theirs.lock();
            let (a, b) = *pair;
            assert_eq!(a, b);
            pair.0 = a + 1;
            if round % 256 == 0 {
                task::yield_now();
            }
            pair.1 = b + 1;
        }
    });
    assert_eq!(*pair.lock(), (ROUNDS * MANY as u64, ROUNDS * MANY as u64));
    assert!(pair.try_lock().is_some());
}

fn a_mutex_survives_a_panic_of_its_holder() {
    let value = Mutex::new(1);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut value = value.lock();
        *value = 2;
        resume_unwind(Box::new(()));
    }));
    assert!(caught.is_err());
    assert_eq!(value.try_lock().map(|value| *value), Some(2));
}

fn no_unpark_is_lost() {
    static TURN: AtomicU32 = AtomicU32::new(0);
    TURN.store(0, Ordering::Relaxed);
    const TURNS: u32 = 4000;
    let main = task::current();
    let other = task::spawn("other", move || {
        for turn in (1..TURNS).step_by(2) {
            while TURN.load(Ordering::Acquire) != turn {
                task::park();
            }
            TURN.store(turn + 1, Ordering::Release);
            main.unpark();
        }
    });
    for turn in (0..TURNS).step_by(2) {
        while TURN.load(Ordering::Acquire) != turn {
            task::park();
        }
        TURN.store(turn + 1, Ordering::Release);
        other.task().unpark();
    }
    other.join().unwrap();
    assert_eq!(TURN.load(Ordering::Relaxed), TURNS);
}

fn everyone_who_joins_in_a_chain_wakes() {
    fn chain(length: u32) -> u32 {
        match length {
            0 => 0,
            _ => task::spawn("link", move || chain(length - 1)).join().unwrap() + 1,
        }
    }
    assert_eq!(chain(60), 60);
}

fn ten_thousand_tasks_leave_nothing_behind() {
    const SPAWNERS: usize = 4;
    static SUM: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static COUNT: Cell<Option<Box<u64>>> = const { Cell::new(None) };
    }
    let run = |rounds: u64| {
        SUM.store(0, Ordering::Relaxed);
        let spawners: Vec<_> = (0..SPAWNERS)
            .map(|_| {
                task::spawn("spawner", move || {
                    for round in 0..rounds {
                        let child = task::spawn("child", move || {
                            COUNT.set(Some(Box::new(round)));
                            round
                        });
                        SUM.fetch_add(child.join().unwrap(), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for spawner in spawners {
            spawner.join().unwrap();
        }
        assert_eq!(SUM.load(Ordering::Relaxed), SPAWNERS as u64 * rounds * (rounds - 1) / 2);
    };
    // Lists grow to what they need at first.
    run(10);
    let before = footprint();
    run(2500);
    assert_eq!(footprint(), before);
}

/// Tasks that have come to where they wait until something stops them.
static THERE: AtomicUsize = AtomicUsize::new(0);

#[inline(never)]
fn spin_until(stop: &AtomicBool) -> u32 {
    let mut rounds = 0;
    THERE.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        rounds = black_box(rounds) ^ 1;
    }
    black_box(rounds)
}

#[inline(never)]
fn park_until(stop: &AtomicBool) -> u32 {
    THERE.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        task::park();
    }
    black_box(1)
}

/// Where the function at `address` lies.
fn text_of(address: usize) -> core::ops::Range<u64> {
    let symbol = platform().symbols().symbolize(address as u64).expect("a function");
    symbol.address..symbol.address + symbol.size
}

fn code_on_the_stack_of_any_task_is_found() {
    static STOP: AtomicBool = AtomicBool::new(false);
    type Until = fn(&AtomicBool) -> u32;
    for until in [spin_until as Until, park_until as Until] {
        STOP.store(false, Ordering::Relaxed);
        THERE.store(0, Ordering::Relaxed);
        let text = text_of(black_box(until) as *const () as usize);
        let tasks: Vec<_> =
            (0..MANY).map(|_| task::spawn("until", move || black_box(until)(&STOP))).collect();
        while THERE.load(Ordering::Relaxed) < MANY {
            task::yield_now();
        }
        // Suspended, preempted, running: all of them for some round.
        for _ in 0..20 {
            assert!(AllStacks.anyone_in(text.clone()));
            task::yield_now();
        }
        STOP.store(true, Ordering::Relaxed);
        for task in tasks {
            task.task().unpark();
            task.join().unwrap();
        }
        assert!(!AllStacks.anyone_in(text));
    }
    let mine = code_on_the_stack_of_any_task_is_found as *const () as usize;
    assert!(AllStacks.anyone_in(text_of(mine)), "the asking task's own stack counts");
}
