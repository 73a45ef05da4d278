//! A list that is changed under a lock and read without one.
//!
//! ```text
//!   head ──► node ──► node ──► node ──► null
//!              │        ▲        ▲
//!              │        │        └─ the newest: the writer stores one pointer to it, last
//!              └────────┼──────────► taken away: one pointer goes past it; it still points on
//!                       └─ retired; freed once nobody is reading who may stand here
//! ```
//!
//! Promise: a reader, even one that interrupts the writer, sees a whole list: every item that is
//! there all the while, in the order they were added. What it looks at stays until it is done.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use spin::{Mutex, MutexGuard};

use crate::readers::{Readers, Reading, Waiting};
use crate::shared::try_box;

/// A list of `T`, and an `S` for whoever holds the lock.
pub(crate) struct List<T, S> {
    head: AtomicPtr<Node<T>>,
    readers: Readers,
    writer: Mutex<Writable<T, S>>,
    /// The list owns its nodes.
    owns: PhantomData<Box<Node<T>>>,
}

struct Writable<T, S> {
    /// Has room for all that are on the list as well.
    retired: Vec<Retired<T>>,
    len: usize,
    state: S,
}

struct Node<T> {
    item: T,
    next: AtomicPtr<Node<T>>,
}

/// A node that is off the list.
struct Retired<T> {
    node: *mut Node<T>,
    waiting: Waiting,
}

// SAFETY: it owns the node, which may be dropped anywhere if the item may.
unsafe impl<T: Send> Send for Retired<T> {}

/// The right to change a list.
pub(crate) struct Writer<'l, T, S> {
    list: &'l List<T, S>,
    lock: MutexGuard<'l, Writable<T, S>>,
}

/// A walk over a list.
pub(crate) struct Iter<'l, T> {
    next: *const Node<T>,
    _reading: Reading<'l>,
}

// SAFETY: it lends what a shared list lends, and its count may be given back anywhere.
unsafe impl<T: Send + Sync> Send for Iter<'_, T> {}
// SAFETY: shared, it lends nothing.
unsafe impl<T: Send + Sync> Sync for Iter<'_, T> {}

impl<T, S> List<T, S> {
    pub const fn new(state: S) -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            readers: Readers::new(),
            writer: Mutex::new(Writable { retired: Vec::new(), len: 0, state }),
            owns: PhantomData,
        }
    }

    /// Waits until nobody else changes the list.
    pub fn lock(&self) -> Writer<'_, T, S> {
        Writer { list: self, lock: self.writer.lock() }
    }

    /// A walk over the items, oldest first.
    pub fn iter(&self) -> Iter<'_, T> {
        let reading = self.readers.enter();
        // Loaded after the reader is counted.
        Iter { next: self.head.load(Ordering::Acquire), _reading: reading }
    }

    /// What `find` says of the first item of which it says something.
    pub fn find_map<R>(&self, mut find: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let mut items = self.iter();
        loop {
            if let Some(found) = items.next_with(&mut find)? {
                return Some(found);
            }
        }
    }
}

impl<T> Iter<'_, T> {
    /// What `look` says of the next item, which it may look at only that long.
    pub fn next_with<R>(&mut self, look: impl FnOnce(&T) -> R) -> Option<R> {
        // SAFETY:
        // 1. A link is null or points to a node that `push` leaked, stored after the node was
        //    complete; the acquire load sees it so.
        // 2. A node is freed only when nobody is reading who was when it was on the list, or
        //    when a node that it followed was: this reader has been all the while.
        let node = unsafe { self.next.as_ref() }?;
        self.next = node.next.load(Ordering::Acquire);
        Some(look(&node.item))
    }
}

impl<T, S> Deref for Writer<'_, T, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.lock.state
    }
}

impl<T, S> DerefMut for Writer<'_, T, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.lock.state
    }
}

impl<T, S> Writer<'_, T, S> {
    /// Adds `item` at the end; it is seen by readers from now on.
    ///
    /// # Errors
    ///
    /// There is no memory for it; it is dropped.
    pub fn push(&mut self, item: T) -> Result<(), TryReserveError> {
        let len = self.lock.len + 1;
        self.lock.retired.try_reserve(len)?;
        let node = try_box(Node { item, next: AtomicPtr::new(ptr::null_mut()) })?;
        self.lock.len = len;
        self.link(|_| false).store(Box::into_raw(node), Ordering::Release);
        Ok(())
    }

    /// Takes the first item away of which `is_it` is true; readers that start from now on do
    /// not see it. Whether there was one. Needs no memory.
    pub fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> bool {
        let link = self.link(is_it);
        let node = link.load(Ordering::Relaxed);
        // SAFETY: as in `link`.
        let Some(found) = (unsafe { node.as_ref() }) else { return false };
        // Who stands on the node goes on from it as if it were there.
        link.store(found.next.load(Ordering::Relaxed), Ordering::Release);
        self.lock.len -= 1;
        self.lock.retired.push(Retired { node, waiting: Waiting::NEW });
        true
    }

    /// Takes back the items that were taken away and that no reader can see any more.
    pub fn reclaim(&mut self) -> impl Iterator<Item = T> {
        let retired = &mut self.lock.retired;
        self.list.readers.pass(retired.iter_mut().map(|retired| &mut retired.waiting));
        retired.extract_if(.., |retired| retired.waiting.is_over()).map(|retired| {
            // SAFETY: leaked by `push` from a box and off the list, so it is taken back once; no
            // reader can see it.
            let node = unsafe { Box::from_raw(retired.node) };
            node.item
        })
    }

    /// The link to the first item of which `is_it` is true, or the last link.
    fn link(&self, is_it: impl Fn(&T) -> bool) -> &AtomicPtr<Node<T>> {
        let mut link = &self.list.head;
        // SAFETY: nodes on the list are complete, and only whoever has the lock, as we do, takes
        // one off, which takes `&mut self`.
        while let Some(node) = unsafe { link.load(Ordering::Relaxed).as_ref() } {
            if is_it(&node.item) {
                break;
            }
            link = &node.next;
        }
        link
    }
}

impl<T, S> Drop for List<T, S> {
    fn drop(&mut self) {
        let retired = core::mem::take(&mut self.writer.get_mut().retired);
        let mut next = *self.head.get_mut();
        while !next.is_null() {
            // SAFETY: leaked by `push` from a box, and taken back once; nodes are ours alone now.
            let mut node = unsafe { Box::from_raw(next) };
            next = *node.next.get_mut();
        }
        for Retired { node, .. } in retired {
            // SAFETY: as above; what is retired is not on the list.
            drop(unsafe { Box::from_raw(node) });
        }
    }
}

#[cfg(test)]
mod tests;
