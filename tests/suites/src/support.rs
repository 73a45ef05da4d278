//! What several suites use.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use unspool::loader::{Handle, UnloadError};
use unspool::unwind::global;
use unspool_kernel::boot::boot;
use unspool_kernel::cpu::{self, NoPreemption};
use unspool_kernel::machine::machine;
use unspool_kernel::memory::object_bytes;
use unspool_kernel::platform::tls_registry;
use unspool_kernel::walk::AllStacks;
use unspool_kernel::{heap, loader, task};

/// Nanoseconds after which what must happen should have: emulators are slow, machines busy, and any of
/// their processors may be away for seconds.
pub const PATIENCE: u64 = 60_000_000_000;

/// The bytes of a module that was passed to the kernel.
pub fn module(name: &str) -> &'static [u8] {
    boot().module(name).unwrap_or_else(|| panic!("no module {name} was passed"))
}

/// Unloads what nobody needs any more, which takes no memory. What was interrupted on another CPU may
/// look like a user for a moment.
pub fn unload_soon(object: &Handle<'_>) {
    let begin = machine().now();
    loop {
        match loader().unload(object, &AllStacks) {
            Ok(()) => return,
            Err(UnloadError::OnStack | UnloadError::ExceptionInFlight)
                if machine().now() - begin < PATIENCE =>
            {
                task::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns once each CPU has run a task since the call: a handler that ran there has come to its end,
/// and what was sent there has come.
pub fn all_cpus_came_by() {
    let came = Arc::new(AtomicU32::new(0));
    let all = (1_u32 << cpu::count()) - 1;
    let spawn = |_| {
        let came = Arc::clone(&came);
        task::spawn("comes by", move || {
            while came.load(Ordering::SeqCst) != all {
                let here = NoPreemption::new();
                // In a process, a call of the system, at whose end no signal is left.
                machine().now();
                came.fetch_or(1 << cpu::current(), Ordering::SeqCst);
                drop(here);
            }
        })
    };
    let tasks: Vec<_> = (0..2 * cpu::count()).map(spawn).collect();
    tasks.into_iter().for_each(|task| task.join().unwrap());
}

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<u32>>>);

impl Log {
    /// Notes an event.
    pub fn note(&self, event: u32) {
        self.0.borrow_mut().push(event);
    }

    /// What was noted.
    pub fn events(&self) -> Vec<u32> {
        self.0.borrow().clone()
    }

    /// Notes `event` when the value is dropped.
    pub fn on_drop(&self, event: u32) -> Noting {
        Noting { log: self.clone(), event }
    }
}

/// See [`Log::on_drop`].
pub struct Noting {
    log: Log,
    event: u32,
}

impl Drop for Noting {
    fn drop(&mut self) {
        self.log.note(self.event);
    }
}

/// How many [`Live`] there are.
static LIVE: AtomicI64 = AtomicI64::new(0);

/// What the memory of one that is there says.
const ALIVE: u64 = 0x616c_6976_6521;

/// Something that is there, is counted, and has some memory.
pub struct Live(Box<u64>);

impl Live {
    /// One more.
    pub fn new() -> Self {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Self(Box::new(ALIVE))
    }

    /// How many there are.
    pub fn count() -> i64 {
        LIVE.load(Ordering::SeqCst)
    }

    /// Whether it has not been dropped, as far as its memory tells.
    pub fn is_alive(&self) -> bool {
        *self.0 == ALIVE
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        assert!(self.is_alive(), "dropped once");
        *self.0 = 0;
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has many tasks at once. The kernel's lists are then as long as any test makes them, and a
/// [`footprint`] depends on nobody's luck.
fn have_many_tasks() {
    const MANY: usize = 256;
    let tasks: Vec<_> = (0..MANY).map(|_| task::spawn("one of many", task::park)).collect();
    tasks.iter().for_each(|task| task.task().unpark());
    tasks.into_iter().for_each(|task| task.join().unwrap());
}

/// What the system holds on to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footprint {
    objects: usize,
    modules: usize,
    areas: usize,
    surplus: usize,
    bytes: u64,
    heap: usize,
}

/// What the system holds on to when it has come to rest: no task is left but the program's and the
/// test's, and what they had has been given back. Who asks has joined its tasks, or leaves them to end.
pub fn footprint() -> Footprint {
    /// The program's, which waits, and the test's.
    const TASKS: usize = 2;
    /// How often in a row the numbers must be the same.
    const AT_REST: u32 = 20;
    static LISTS_ARE_LONG: AtomicBool = AtomicBool::new(false);
    if !LISTS_ARE_LONG.swap(true, Ordering::Relaxed) {
        have_many_tasks();
    }
    let (mut last, mut same) = (snapshot(), 0);
    while same < AT_REST {
        task::yield_now();
        (0..1000).for_each(|_| core::hint::spin_loop());
        let now = snapshot();
        let at_rest = now == last && task::count() == TASKS && task::unfreed() == 0;
        same = if at_rest { same + 1 } else { 0 };
        last = now;
    }
    last
}

fn snapshot() -> Footprint {
    // Areas of tasks that have ended are kept for others.
    tls_registry().trim();
    Footprint {
        objects: loader().objects().count(),
        modules: global().len(),
        areas: tls_registry().live_areas(),
        surplus: tls_registry().surplus_free(),
        bytes: object_bytes(),
        heap: heap::used(),
    }
}
