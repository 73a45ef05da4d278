//! The kernel's own locks: whoever holds one keeps its CPU.
//!
//! ```text
//!   loader, TLS registry (not of this type)
//!     ─► scheduler ─► walk ─┬► asking others ─► heap ─► serial port
//!     ─► spare stacks, window ─► page tables ─┘
//! ```
//!
//! The order in which they are taken; a lock further right may be held alone, none is taken while
//! one further right is held. Handlers of interrupts take none but the serial port's, and that with
//! patience. Interrupts stay on while one is held; preemption is off, so that nobody waits for a
//! task that does not run.
//!
//! The crates below know nothing of this: a task that has the loader's or the registry's lock may be
//! preempted. So nobody calls them with preemption off, and whoever spins for such a lock gives way
//! at the next tick.

use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::per_cpu;
use crate::cpu::{self, MAX_CPUS, NoPreemption};
use crate::machine::machine;

/// A spin lock that switches preemption off while it is held.
pub(crate) struct Lock<T> {
    inner: spin::Mutex<T>,
    /// The CPU that holds it, plus 1.
    holder: AtomicU32,
    /// The CPUs that sleep until it is free, as bits.
    sleepers: AtomicU32,
}

/// Looks that somebody who waits takes before it sleeps.
const LOOKS: u32 = 100;

/// A held [`Lock`].
pub(crate) struct Guard<'l, T> {
    value: ManuallyDrop<spin::MutexGuard<'l, T>>,
    lock: &'l Lock<T>,
    preemption: ManuallyDrop<NoPreemption>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            inner: spin::Mutex::new(value),
            holder: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    /// Takes the lock.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let preemption = NoPreemption::new();
        let mut looks = 0;
        loop {
            match self.inner.try_lock() {
                Some(value) => return self.held(value, preemption),
                None => self.wait(&mut looks),
            }
        }
    }

    /// Waits for a moment in which the lock may be free: looks again soon, or sleeps until it is freed,
    /// because its holder may need the processor that this CPU runs on.
    fn wait(&self, looks: &mut u32) {
        *looks += 1;
        if *looks < LOOKS {
            return core::hint::spin_loop();
        }
        let cpu = cpu::this();
        cpu.kicked.store(0, Ordering::SeqCst);
        self.sleepers.fetch_or(1 << cpu.index(), Ordering::SeqCst);
        // Whoever frees it from here on sees the sleeper.
        if self.inner.is_locked() {
            machine().wait(&cpu.kicked);
        }
        // It must not be woken in place of one that sleeps.
        self.sleepers.fetch_and(!(1 << cpu.index()), Ordering::SeqCst);
    }

    /// Wakes one of those who sleep until the lock is free, which it just became. That one, or whoever
    /// takes the lock before it, wakes the next: to wake a CPU takes long, and one can have the lock.
    fn wake(&self) {
        // A read-modify-write: the lock is free before the sleepers are looked at.
        let sleepers = self.sleepers.fetch_or(0, Ordering::SeqCst);
        if sleepers == 0 {
            return;
        }
        // The next one, counted from this CPU.
        let after = cpu::current() + 1;
        let mut others = (after..after + MAX_CPUS).map(|index| index % MAX_CPUS);
        let Some(index) = others.find(|index| sleepers & 1 << index != 0) else { return };
        if self.sleepers.fetch_and(!(1 << index), Ordering::SeqCst) & 1 << index != 0 {
            let cpu = cpu::get(index);
            cpu.kicked.store(1, Ordering::SeqCst);
            machine().wake(index, &cpu.kicked);
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        let preemption = NoPreemption::new();
        Some(self.held(self.inner.try_lock()?, preemption))
    }

    fn held<'l>(&'l self, value: spin::MutexGuard<'l, T>, off: NoPreemption) -> Guard<'l, T> {
        self.holder.store(cpu::current() as u32 + 1, Ordering::Relaxed);
        Guard { value: ManuallyDrop::new(value), lock: self, preemption: ManuallyDrop::new(off) }
    }

    /// Whether this CPU holds it: what the caller interrupted was in the middle of a change.
    pub(crate) fn is_held_here(&self) -> bool {
        let _here = NoPreemption::new();
        self.holder.load(Ordering::Relaxed) == cpu::current() as u32 + 1
    }

    /// Frees the lock after [`Guard::keep`].
    ///
    /// # Safety
    ///
    /// The lock was kept on this CPU, and no reference to the value is left.
    pub(crate) unsafe fn release(&self) {
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: the caller's promise: it is locked, and the guard is gone.
        unsafe { self.inner.force_unlock() };
        self.wake();
    }
}

impl<T> Guard<'_, T> {
    /// Leaves the lock locked, for [`Lock::release`]; takes only the guard's reason not to preempt
    /// away, of which there must be another.
    pub(crate) fn keep(self) {
        let this = ManuallyDrop::new(self);
        debug_assert!(this.lock.inner.is_locked());
        per_cpu::on();
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.holder.store(0, Ordering::Relaxed);
        // SAFETY: dropped here and nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.value) };
        self.lock.wake();
        // SAFETY: as above; after the lock is free, because others may run now.
        unsafe { ManuallyDrop::drop(&mut self.preemption) };
    }
}
