//! Tasks and modules come and go on four threads, for as long as it is told to.
//!
//! ```text
//!  SOAK_SECONDS=60 cargo test -p unspool-tls --test soak
//!
//!  each thread   areas × modules of its own ─► every block has what its task wrote, or its module's
//!                                              first bytes; blocks of others' modules in between
//! ```
//!
//! Made to be run under valgrind or with the address sanitizer, too.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use unspool_tls::{Area, Dynamic, Published, Registry, Template};

const THREADS: u64 = 4;
const SURPLUS: usize = 16 << 10;
/// Areas and modules that a thread has at most.
const MOST: usize = 24;

/// Numbers that look random (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

enum Handle<'r> {
    Fixed(Published<'r>),
    Dynamic(Dynamic<'r>),
}

struct Module<'r> {
    handle: Handle<'r>,
    /// Tells it from others that have the same number later.
    serial: u64,
    /// In bytes; at least a word.
    size: usize,
    align: usize,
    /// What all its bytes are at first.
    first: u8,
}

struct Task<'r> {
    area: Area<'r>,
    /// What it wrote, by the modules' serials.
    written: HashMap<u64, u8>,
}

struct Worker<'r> {
    registry: &'r Registry,
    /// A task that all threads make blocks for.
    resident: &'r Area<'r>,
    numbers: Numbers,
    serial: u64,
    tasks: Vec<Task<'r>>,
    modules: Vec<Module<'r>>,
}

impl<'r> Worker<'r> {
    fn begin(&mut self) {
        let area = self.registry.new_area(self.numbers.next()).unwrap();
        self.tasks.push(Task { area, written: HashMap::new() });
    }

    fn load(&mut self) {
        let size = 8 + self.numbers.below(if self.serial.is_multiple_of(16) { 9000 } else { 300 });
        let align = 1 << self.numbers.below(9);
        let first = self.numbers.next() as u8;
        let image = vec![first; size];
        let fixed =
            self.registry.reserve(size, align).ok().filter(|_| self.serial.is_multiple_of(3));
        let handle = match fixed {
            Some(reserved) => Handle::Fixed(reserved.publish(&image).unwrap()),
            None => Handle::Dynamic(self.registry.add_dynamic(&image, size, align).unwrap()),
        };
        self.modules.push(Module { handle, serial: self.serial, size, align, first });
        self.serial += 1;
    }

    /// Looks at a block, and writes to it.
    fn touch(&mut self) {
        if self.tasks.is_empty() || self.modules.is_empty() {
            return;
        }
        let (task, module) =
            (self.numbers.below(self.tasks.len()), self.numbers.below(self.modules.len()));
        let (task, module) = (&mut self.tasks[task], &self.modules[module]);
        let id = match &module.handle {
            Handle::Fixed(module) => module.module(),
            Handle::Dynamic(module) => module.module(),
        };
        let start = task.area.prepare(id).unwrap();
        assert_eq!(start.addr() % module.align, 0);
        // SAFETY: A block of this thread's module in this thread's area.
        let block = unsafe { std::slice::from_raw_parts_mut(start, module.size) };
        let expected = task.written.get(&module.serial).copied().unwrap_or(module.first);
        assert!(block.iter().all(|byte| *byte == expected), "{block:x?} instead of {expected:x}");
        let next = self.numbers.next() as u8;
        block.fill(next);
        task.written.insert(module.serial, next);
        let resident = self.resident.prepare(id).unwrap();
        // SAFETY: Only this thread writes to blocks of its modules.
        assert_eq!(unsafe { resident.read() }, module.first);
    }

    fn step(&mut self) {
        match self.numbers.below(20) {
            0 | 1 if self.tasks.len() < MOST => self.begin(),
            2 if !self.tasks.is_empty() => {
                let index = self.numbers.below(self.tasks.len());
                self.tasks.swap_remove(index);
            }
            3 | 4 if self.modules.len() < MOST => self.load(),
            5 if !self.modules.is_empty() => {
                let index = self.numbers.below(self.modules.len());
                self.modules.swap_remove(index);
            }
            6 => match self.modules.last() {
                Some(Module { handle: Handle::Dynamic(module), .. }) => {
                    module.prepare_live().unwrap();
                    assert_eq!(module.pending_destructors(&[]), 0);
                }
                Some(Module { handle: Handle::Fixed(module), .. }) => {
                    assert_eq!(module.pending_destructors(&[]), 0);
                }
                None => {}
            },
            7 => self.tasks.last().into_iter().for_each(|task| task.area.prepare_all().unwrap()),
            8 if self.serial.is_multiple_of(32) => _ = self.registry.trim(),
            9 => assert!(self.registry.live_areas() > self.tasks.len()),
            _ => self.touch(),
        }
    }
}

#[test]
fn blocks_are_their_tasks_own_whatever_comes_and_goes() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let registry = Registry::new(Template::EMPTY, SURPLUS).unwrap();
    let resident = registry.new_area(0).unwrap();
    let steps: Vec<u64> = thread::scope(|scope| {
        let start = |number| {
            let (registry, resident) = (&registry, &resident);
            scope.spawn(move || {
                let (numbers, tasks, modules) = (Numbers(number), Vec::new(), Vec::new());
                let serial = 0;
                let mut worker = Worker { registry, resident, numbers, serial, tasks, modules };
                let mut steps = 0;
                // Also one that has come late does something.
                loop {
                    (0..100).for_each(|_| worker.step());
                    steps += 100;
                    if Instant::now() >= end {
                        return steps;
                    }
                }
            })
        };
        let threads: Vec<_> = (1..=THREADS).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("{steps:?} steps");
    assert!(steps.iter().all(|steps| *steps > 0));
    assert_eq!((registry.live_areas(), registry.modules()), (1, 0));
    assert_eq!(registry.surplus_free(), SURPLUS);
}
