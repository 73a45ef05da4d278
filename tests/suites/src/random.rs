//! Random stacks: functions of many shapes call each other, and one throws.
//!
//! ```text
//!   catch ─► wide ─► plain ─► catch ─► dynamic ─► aligned ─► throw
//!              each keeps a ticket; dropping it must find it on top of the pile
//! ```

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::hint::black_box;

use unspool::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use unspool::unwind::{Module, Section, register};
use unspool_kernel::cpu::NoPreemption;

crate::tests![ten_thousand_random_stacks_unwind_to_the_right_frame, a_throw_fits_in_two_kib];

/// A small generator: the same stacks in every run.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, bound: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x >> 16) % bound
    }
}

/// What a stack must have behaved like.
struct World {
    random: Random,
    /// The tickets of live frames, outermost first.
    pile: RefCell<Vec<u32>>,
    next: Cell<u32>,
    throws: Cell<u32>,
    catches: Cell<u32>,
    misplaced: Cell<u32>,
}

struct Ticket<'w>(&'w World, u32);

impl<'w> Ticket<'w> {
    fn new(world: &'w World) -> Self {
        let number = world.next.get();
        world.next.set(number + 1);
        world.pile.borrow_mut().push(number);
        Self(world, number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.0.pile.borrow_mut().pop() != Some(self.1) {
            self.0.misplaced.set(self.0.misplaced.get() + 1);
        }
    }
}

/// The payload: where it was thrown.
struct Thrown(u32);

type Shape = fn(&World, u32) -> u64;

const SHAPES: [Shape; 6] = [plain, wide, aligned, boxed, guarded, catching];

/// Calls another shape, or throws, or returns.
fn descend(world: &World, depth: u32) -> u64 {
    if depth == 0 || world.random.below(40) == 0 {
        if world.random.below(4) == 0 {
            return u64::from(depth);
        }
        world.throws.set(world.throws.get() + 1);
        resume_unwind(Box::new(Thrown(depth)));
    }
    let shape = SHAPES[world.random.below(SHAPES.len() as u64) as usize];
    black_box(shape(world, depth - 1)) + 1
}

#[inline(never)]
fn plain(world: &World, depth: u32) -> u64 {
    let _ticket = Ticket::new(world);
    black_box(descend(world, depth))
}

/// Saved registers and a large frame.
#[inline(never)]
fn wide(world: &World, depth: u32) -> u64 {
    let _ticket = Ticket::new(world);
    let numbers: [u64; 96] = core::array::from_fn(|n| black_box(n as u64));
    let (a, b, c, d, e) = black_box((1u64, 2u64, 3u64, 4u64, 5u64));
    let below = descend(world, depth);
    black_box(numbers.iter().sum::<u64>() + a * b + c * d + e) ^ below
}

/// A frame that realigns its stack.
#[inline(never)]
fn aligned(world: &World, depth: u32) -> u64 {
    #[repr(align(128))]
    struct Line([u8; 128]);
    let line = black_box(Line([depth as u8; 128]));
    let _ticket = Ticket::new(world);
    let below = descend(world, depth);
    assert!((&raw const line).addr().is_multiple_of(128));
    black_box(u64::from(line.0[17])) + below
}

/// A call through a trait object, with a box and a counted reference to drop.
#[inline(never)]
fn boxed(world: &World, depth: u32) -> u64 {
    let shared = Rc::new(Ticket::new(world));
    let call: Box<dyn Fn(u32) -> u64 + '_> = Box::new(|depth| {
        let _also = Rc::clone(&shared);
        descend(world, depth)
    });
    black_box(call(depth))
}

/// Two tickets, the second only sometimes.
#[inline(never)]
fn guarded(world: &World, depth: u32) -> u64 {
    let _first = Ticket::new(world);
    let second = (world.random.below(2) == 0).then(|| Ticket::new(world));
    let below = descend(world, depth);
    drop(second);
    black_box(below)
}

/// Catches, and throws again now and then.
#[inline(never)]
fn catching(world: &World, depth: u32) -> u64 {
    let _ticket = Ticket::new(world);
    let height = world.pile.borrow().len();
    match catch_unwind(AssertUnwindSafe(|| descend(world, depth))) {
        Ok(value) => value,
        Err(payload) => {
            world.catches.set(world.catches.get() + 1);
            assert_eq!(world.pile.borrow().len(), height, "frames above were cleaned up");
            assert!(payload.downcast_ref::<Thrown>().is_some_and(|thrown| thrown.0 <= depth));
            if world.random.below(3) == 0 {
                resume_unwind(payload);
            }
            black_box(u64::from(depth))
        }
    }
}

fn ten_thousand_random_stacks_unwind_to_the_right_frame() {
    let world = World {
        random: Random(Cell::new(0x9e37_79b9_7f4a_7c15)),
        pile: RefCell::default(),
        next: Cell::new(0),
        throws: Cell::new(0),
        catches: Cell::new(0),
        misplaced: Cell::new(0),
    };
    for _ in 0..10_000 {
        let depth = 1 + world.random.below(24) as u32;
        let _ = catch_unwind(AssertUnwindSafe(|| descend(&world, depth)));
        assert_eq!(world.pile.borrow().len(), 0);
        assert_eq!(world.misplaced.get(), 0);
    }
    assert!(world.throws.get() > 5_000, "{} throws", world.throws.get());
    assert!(world.catches.get() > 2_000, "{} catches", world.catches.get());
}

/// What a freshly painted stack is filled with.
const PAINT: u8 = 0xa5;
const PAINTED: usize = 16 * 1024;

/// Fills the stack below the caller.
#[inline(never)]
fn paint() {
    let area = [PAINT; PAINTED];
    black_box(&area);
}

/// How far below `top` the paint is gone (bytes).
fn used(top: usize) -> usize {
    let low = top - PAINTED / 2;
    let untouched = (low..top)
        .take_while(|&address| {
            let byte = core::ptr::with_exposed_provenance::<u8>(address);
            // SAFETY: the task's stack is larger than what was painted.
            unsafe { byte.read_volatile() == PAINT }
        })
        .count();
    top - (low + untouched)
}

/// From the frame that throws, through drops, to the frame that catches; the landing pads and
/// what they call are on the thrower's side of the ledger, and small.
fn a_throw_fits_in_two_kib() {
    #[inline(never)]
    fn throw(payload: Box<u32>) -> u64 {
        struct Quiet;
        impl Drop for Quiet {
            fn drop(&mut self) {
                black_box(());
            }
        }
        let _quiet = Quiet;
        resume_unwind(payload)
    }
    let mut most = 0;
    // What preempts a task uses its stack, too.
    let _preemption = NoPreemption::new();
    for round in 0..4 {
        forget_rules();
        let payload = Box::new(round);
        paint();
        let marker = 0u8;
        let top = (&raw const marker).expose_provenance();
        let caught = catch_unwind(AssertUnwindSafe(|| throw(payload)));
        most = most.max(used(top));
        assert!(caught.is_err());
    }
    unspool_kernel::println!("a throw and its catch used {most} bytes of stack");
    assert!(most <= 2048, "{most} bytes");
    assert!(most > 256, "{most} bytes is too little to be true");
}

/// Makes the next throw read the tables again, which takes more stack than remembering.
fn forget_rules() {
    let nothing = Module::new(1..2, Section::EMPTY);
    // SAFETY: no code is there, and no tables.
    drop(unsafe { register(nothing) }.expect("room for a module"));
}
