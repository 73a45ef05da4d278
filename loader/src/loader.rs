//! What is loaded: objects come, are found, and go.
//!
//! ```text
//!   load ──► lock ── link ── on the list ── unlock ──► constructors ──► handle
//!   unload ──► lock ── checks ── unlock ──► destructors ──► lock ── checks ── off the list ── gone
//! ```

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use unspool_stack_trace::{Place, Symbol, Symbolize};
use unspool_tls::Registry;

use crate::atexit;
use crate::error::{LoadError, UnloadError};
use crate::handle::Handle;
use crate::link::Link;
use crate::list::{List, Writer};
use crate::memory::Memory;
use crate::names::Pool;
use crate::object::{Loaded, Object};
use crate::set::{Input, Set};
use crate::shared::Shared;
use crate::symbols::Symbols;
use crate::unload::{self, Stacks};

/// Loads relocatable objects, keeps them, and unloads them.
pub struct Loader<'k> {
    memory: &'k dyn Memory,
    program: &'k dyn Symbols,
    tls: &'k Registry,
    objects: List<Shared<Object>, Kept<'k>>,
}

/// What the lock of the list guards.
struct Kept<'k> {
    /// In the order in which they were loaded.
    loaded: Vec<Loaded<'k>>,
    /// Names that were handed out for as long as the loader lives.
    names: Vec<Shared<Pool>>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        // Later ones may rely on earlier ones.
        while self.loaded.pop().is_some() {}
    }
}

type Changing<'l, 'k> = Writer<'l, Shared<Object>, Kept<'k>>;

impl<'k> Loader<'k> {
    /// A loader without objects: `memory` is where they will lie, `program` what they may refer
    /// to, `tls` where their thread-local variables will live.
    pub const fn new(memory: &'k dyn Memory, program: &'k dyn Symbols, tls: &'k Registry) -> Self {
        let kept = Kept { loaded: Vec::new(), names: Vec::new() };
        Self { memory, program, tls, objects: List::new(kept) }
    }

    /// Loads the relocatable object `file` under a name of the caller's choice (names may repeat).
    ///
    /// When this returns, the object's code can be called, its panics unwind, its functions have
    /// names in traces, and its thread-local variables exist in every task. Objects are loaded
    /// and unloaded one at a time; a second caller spins, so interrupt handlers must not load.
    ///
    /// Whoever calls into the object (by making a function pointer from
    /// [`Object::symbol`], which takes `unsafe`) vouches for its contents, and for the object being
    /// there: as long as one keeps a handle, it is.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says what is wrong. Nothing of the object stays mapped, reserved or registered
    /// then.
    pub fn load(&self, name: &str, file: &[u8]) -> Result<Handle<'_>, LoadError> {
        self.load_set(&Set::new(name, &[Input::new(name, file)]))
    }

    /// Loads the files of a set together, as one object under the set's name.
    ///
    /// The functions that the files want to have called first ([`.init_array`, `.ctors`]) are called
    /// before this returns, when the object is loaded as far as everyone else is concerned, and the
    /// loader is free: they may load other objects, and others may use this one meanwhile.
    ///
    /// [`.init_array`, `.ctors`]: crate#constructors-and-destructors
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_set(&self, set: &Set<'_>) -> Result<Handle<'_>, LoadError> {
        let mut kept = self.objects.lock();
        reclaim(&mut kept);
        let link = Link { memory: self.memory, tls: self.tls, program: self.program };
        let (loaded, initializers) = link.load(set, &kept.loaded, &kept.names)?;
        let handle = Handle::first(&loaded.object);
        let at = |error: TryReserveError| LoadError::new(set.name.into(), error.into());
        kept.loaded.try_reserve(1).map_err(at)?;
        kept.push(Shared::clone(&loaded.object)).map_err(at)?;
        kept.loaded.push(loaded);
        drop(kept);
        // SAFETY: the object is loaded, and the handle keeps it.
        unsafe { initializers.call() };
        Ok(handle)
    }

    /// Unloads an object: has it clean up, and gives back its memory, its TLS blocks, its unwind
    /// tables, its symbols and its names. `stacks` is asked whether any code of it is being executed.
    ///
    /// The given handle goes on to tell what it told; it holds nothing any more, and neither do
    /// clones that are made of it meanwhile.
    ///
    /// # What is found, and what is not
    ///
    /// Handles, objects that were linked to it, frames on stacks, exceptions in flight and pending
    /// destructors are found, and the object stays. What cannot be found are values that lead into
    /// it: function pointers, references to its data, `&dyn Trait`, boxed closures, and what a
    /// caught panic of it brought along (a payload of a type of its own; the text of
    /// `panic!("literal")`, which is a `&'static str` in its memory). Whoever keeps such a value
    /// keeps a handle with it.
    ///
    /// # What the object does before it goes
    ///
    /// What it registered with `__cxa_atexit` or `atexit` and its [`.fini_array` and `.dtors`]
    /// are called on the calling task, when everything has been checked, and nobody gets a handle
    /// any more. The loader is free meanwhile. As these functions may have started something, all is
    /// checked again after them. If somebody needs the object now, it stays loaded, and is not asked
    /// to clean up again when it is unloaded later.
    ///
    /// [`.fini_array` and `.dtors`]: crate#constructors-and-destructors
    ///
    /// Needs no memory. Tasks go on meanwhile, so an answer may be a moment old.
    ///
    /// # Errors
    ///
    /// [`UnloadError`] says who needs the object. It is loaded as before then, but may have cleaned
    /// up, as said above.
    pub fn unload(&self, handle: &Handle<'_>, stacks: &dyn Stacks) -> Result<(), UnloadError> {
        let object = handle.object();
        let mut kept = self.objects.lock();
        let closed = unload::close(object, &kept.loaded)?;
        unload::check(object, &kept.loaded, stacks)?;
        if let Some(at) = place_of(object, &kept.loaded) {
            let finalizers = core::mem::take(&mut kept.loaded[at].finalizers);
            drop(kept);
            // SAFETY: nothing of the object has been taken away, and nobody else can: it is closed.
            unsafe { atexit::run(&object.all()) };
            // SAFETY: as above.
            unsafe { finalizers.call() };
            // SAFETY: as above. This is what the finalizers have registered.
            unsafe { atexit::run(&object.all()) };
            kept = self.objects.lock();
            unload::check(object, &kept.loaded, stacks)?;
        }
        kept.remove(|other| Shared::ptr_eq(other, object));
        let place = place_of(object, &kept.loaded);
        drop(place.map(|place| kept.loaded.remove(place)));
        closed.gone();
        reclaim(&mut kept);
        Ok(())
    }

    /// Handles of the loaded objects, oldest first.
    pub fn objects(&self) -> impl Iterator<Item = Handle<'_>> {
        let mut objects = self.objects.iter();
        // What is being unloaded has no handle.
        core::iter::from_fn(move || {
            loop {
                if let Some(handle) = objects.next_with(Handle::new)? {
                    return Some(handle);
                }
            }
        })
    }

    /// The first object that was loaded under this name.
    pub fn object(&self, name: &str) -> Option<Handle<'_>> {
        let is_it = |object: &&Shared<Object>| object.name() == name;
        self.objects.find_map(|object| Some(object).filter(is_it).and_then(Handle::new))
    }

    /// The address of a global symbol of the first object that offers it.
    ///
    /// An address does not keep the object; [`objects`](Self::objects) gives handles.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.objects.find_map(|object| object.symbol(name))
    }
}

/// Where an object is among those that are loaded.
fn place_of(object: &Shared<Object>, loaded: &[Loaded<'_>]) -> Option<usize> {
    loaded.iter().position(|one| Shared::ptr_eq(&one.object, object))
}

/// Frees objects that were unloaded when somebody was looking at them, except for names that
/// were handed out.
fn reclaim(kept: &mut Changing<'_, '_>) {
    // Without memory to keep names in, everything waits for the next time.
    while kept.names.try_reserve(1).is_ok() {
        let Some(object) = kept.reclaim().next() else { break };
        if let Some(pool) = object.names().lent_pool()
            && !kept.names.iter().any(|other| Shared::ptr_eq(other, pool))
        {
            kept.names.push(Shared::clone(pool));
        }
    }
}

impl Symbolize for Loader<'_> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let lent = self.objects.find_map(|object| object.lend_function(address))?;
        // SAFETY: `reclaim` keeps the pool when it frees the object, which it does after the
        // list knows that nobody is looking at it, as we were when it was lent from; from then
        // on it is kept until the loader is dropped, which the borrow of `self` excludes.
        Some(unsafe { lent.symbol() })
    }

    fn place(&self, address: u64) -> Option<Place<'_>> {
        let lent = self.objects.find_map(|object| object.lend_place(address))?;
        // SAFETY: as above.
        Some(unsafe { lent.place() })
    }
}
