//! A list that only grows: appended to under a lock, read without one.
//!
//! ```text
//!   head ──► node ──► node ──► node ──► null
//!                                  ▲
//!              readers follow      └─ the appender stores one pointer, last
//! ```
//!
//! Promise: a reader, even one that interrupts the appender, sees a whole list; what it sees
//! stays where it is until the list is dropped.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use spin::{Mutex, MutexGuard};

/// A list that only grows.
pub(crate) struct List<T> {
    head: AtomicPtr<Node<T>>,
    /// Held while something is being appended.
    appending: Mutex<()>,
    /// The list owns its nodes.
    owns: PhantomData<Box<Node<T>>>,
}

struct Node<T> {
    item: T,
    next: AtomicPtr<Node<T>>,
}

// SAFETY: a shared list gives out `&T` to all threads, and takes a `T` from any of them to be
// dropped by another.
unsafe impl<T: Send + Sync> Sync for List<T> {}

/// The right to append to a list.
pub(crate) struct Appender<'l, T> {
    list: &'l List<T>,
    _lock: MutexGuard<'l, ()>,
}

impl<T> List<T> {
    pub const fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), appending: Mutex::new(()), owns: PhantomData }
    }

    /// Waits until nobody else appends.
    pub fn lock(&self) -> Appender<'_, T> {
        Appender { list: self, _lock: self.appending.lock() }
    }

    /// The items, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let mut link = &self.head;
        core::iter::from_fn(move || {
            // SAFETY:
            // 1. A link is null or points to a node that `push` leaked, stored after the node was
            //    complete; the acquire load sees it so.
            // 2. Nodes are freed by `drop` only, which excludes the borrow of `self`.
            let node = unsafe { link.load(Ordering::Acquire).as_ref() }?;
            link = &node.next;
            Some(&node.item)
        })
    }
}

impl<'l, T> Appender<'l, T> {
    /// Appends `item`; it is seen by readers from now on.
    pub fn push(self, item: T) -> &'l T {
        let node = Box::new(Node { item, next: AtomicPtr::new(ptr::null_mut()) });
        let new = Box::into_raw(node);
        let mut link = &self.list.head;
        // SAFETY: as in `iter`; the list is borrowed for `'l`.
        while let Some(node) = unsafe { link.load(Ordering::Acquire).as_ref() } {
            link = &node.next;
        }
        // Nobody else changes the last link: the lock is ours.
        link.store(new, Ordering::Release);
        // SAFETY: just leaked, freed only when the list is dropped, which the borrow for `'l`
        // excludes; never borrowed exclusively again before that.
        unsafe { &(*new).item }
    }
}

impl<T> Drop for List<T> {
    /// Drops the items, newest first: later ones may rely on earlier ones.
    fn drop(&mut self) {
        let mut newest_first = ptr::null_mut::<Node<T>>();
        let mut next = *self.head.get_mut();
        // SAFETY: nodes are ours alone now, and each is visited once before it is freed.
        while let Some(node) = unsafe { next.as_mut() } {
            let after = core::mem::replace(node.next.get_mut(), newest_first);
            newest_first = next;
            next = after;
        }
        while !newest_first.is_null() {
            // SAFETY: leaked by `push` from a box, and taken back once.
            let mut node = unsafe { Box::from_raw(newest_first) };
            newest_first = *node.next.get_mut();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    #[test]
    fn items_come_in_the_order_they_were_appended() {
        let list = List::new();
        assert_eq!(list.iter().count(), 0);
        let first = list.lock().push(1);
        list.lock().push(2);
        list.lock().push(3);
        assert_eq!(list.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(*first, 1);
    }

    #[test]
    fn items_are_dropped_once_newest_first() {
        struct Noisy(u32, Rc<RefCell<Vec<u32>>>);
        impl Drop for Noisy {
            fn drop(&mut self) {
                self.1.borrow_mut().push(self.0);
            }
        }
        let dropped = Rc::default();
        let list = List::new();
        for n in 0..4 {
            list.lock().push(Noisy(n, Rc::clone(&dropped)));
        }
        drop(list);
        assert_eq!(*dropped.borrow(), [3, 2, 1, 0]);
    }

    #[test]
    fn readers_see_whole_items_while_others_append() {
        let list = List::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1000u64).for_each(|n| _ = list.lock().push([n; 4])));
            while list.iter().count() < 1000 {
                for (n, item) in (0..).zip(list.iter()) {
                    assert_eq!(*item, [n; 4]);
                }
            }
        });
    }
}
