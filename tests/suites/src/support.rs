//! What several suites use.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use unspool_kernel::boot::boot;

/// The bytes of a module that was passed to the kernel.
pub fn module(name: &str) -> &'static [u8] {
    boot().module(name).unwrap_or_else(|| panic!("no module {name} was passed"))
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
