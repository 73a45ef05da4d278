//! Step 4: a task that touches page 0.

use core::hint::black_box;
use core::ptr::with_exposed_provenance;

use unspool_kernel::fault::FaultKind;
use unspool_kernel::task::Outcome;
use unspool_kernel::{println, task};

/// What the task dereferences.
const BAD_ADDRESS: usize = 0x18;

struct Guard(&'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        println!("  {}: dropped {}", task::current().name(), self.0);
    }
}

pub fn run() -> bool {
    let careful = task::spawn("careful", || {
        let mut rounds = 0;
        while rounds < 5 {
            rounds += 1;
            task::yield_now();
        }
        rounds
    });
    let careless = task::spawn("careless", || {
        let _guard = Guard("what the task's first function held");
        follow(black_box(BAD_ADDRESS))
    });
    let fault = careless.join();
    let rounds = careful.join();
    println!("  main: the other task went on for {rounds:?} rounds");
    let Outcome::Faulted(fault) = fault else { return false };
    println!("  main: join said: {fault}");
    let expected = BAD_ADDRESS as u64;
    let right = matches!(fault.kind, FaultKind::PageFault { address, .. } if address == expected);
    right && rounds.ok() == Some(5)
}

#[inline(never)]
fn follow(pointer: usize) -> u64 {
    let _guard = Guard("what the caller of the faulting function held");
    black_box(load(pointer)) + 1
}

#[inline(never)]
fn load(pointer: usize) -> u64 {
    assert!(pointer.is_multiple_of(8), "{pointer:#x} is not aligned");
    let pointer = with_exposed_provenance::<u64>(pointer);
    // SAFETY: none: the address is wrong, and the fault is the point.
    unsafe { pointer.read_volatile() }
}
