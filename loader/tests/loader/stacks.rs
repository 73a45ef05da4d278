//! Stacks of tasks that the tests make up.

use std::ops::Range;
use std::sync::Mutex;

use unspool_loader::Stacks;

/// Frames at these addresses, and a record of what was asked.
#[derive(Default)]
pub struct Frames {
    pub at: Vec<u64>,
    pub asked: Mutex<Vec<Range<u64>>>,
}

impl Frames {
    /// No frame of anything that is loaded.
    pub fn none() -> Self {
        Self::default()
    }
}

// SAFETY: the tests call into objects from one thread, and never while they unload.
unsafe impl Stacks for Frames {
    fn anyone_in(&self, text: Range<u64>) -> bool {
        self.asked.lock().unwrap().push(text.clone());
        self.at.iter().any(|address| text.contains(address))
    }
}
