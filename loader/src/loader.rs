//! The journey of one object, step by step, and back; every step's product is given back if a later
//! one fails.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use unspool_stack_trace::{Symbol, Symbolize};
use unspool_tls::Registry;

use crate::atexit::Registrations;
use crate::elf::Elf;
use crate::error::{LoadError, UnloadError};
use crate::fallible::{filled, push};
use crate::handle::Handle;
use crate::list::{List, Writer};
use crate::memory::{Memory, Region};
use crate::names::{Names, Pool};
use crate::object::{Loaded, Object};
use crate::placement::{self, Layout, Place};
use crate::reloc::{self, Image, Needs};
use crate::shared::Shared;
use crate::symbols::{Resolver, Symbols, Value};
use crate::tls::Space;
use crate::unload::{self, Stacks};
use crate::unwind::Unwind;

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
        let elf = Elf::parse(file)?;
        let groups = placement::classify(&elf)?;
        let needs = reloc::scan(&elf, &groups)?;
        let layout = placement::place(&elf, &groups, &needs.slots)?;

        let mut kept = self.objects.lock();
        reclaim(&mut kept);
        let mut region = Region::map(self.memory, layout.size)?;
        let base = region.address();
        copy(&elf, &layout, region.bytes());
        let space = Space::find(self.tls, &layout.tls, needs.static_space, needs.module)?;
        let mut tls_image = tls_image(&elf, &layout)?;

        let (values, bound_to) = self.resolve(&elf, &needs, &layout, base, &space, &kept.loaded)?;
        Image {
            elf: &elf,
            groups: &groups,
            layout: &layout,
            slots: &needs.slots,
            values: &values,
            base,
            region: region.bytes(),
            tls: &mut tls_image,
            block: space.block(),
            module: space.module(),
        }
        .relocate()?;

        let sealed = region.seal(&layout)?;
        // SAFETY: on errors from here on, `unwind` is dropped before `sealed`, which was made
        // earlier; a `Loaded` drops them in the same order.
        let unwind = unsafe { Unwind::register(&layout, &sealed) }?;
        let mut names = Names::collect(name, &elf, &layout, base, &values)?;
        names.share(&kept.names);
        let tls = space.publish(&tls_image)?;
        let object = Shared::try_new(Object::new(names, &layout, base, tls.module()))?;
        let handle = Handle::first(&object);
        kept.loaded.try_reserve(1)?;
        kept.push(Shared::clone(&object))?;
        let at_exit = Registrations::of(object.all());
        let loaded = Loaded { object, bound_to, at_exit, _unwind: unwind, tls, _memory: sealed };
        kept.loaded.push(loaded);
        Ok(handle)
    }

    /// Unloads an object: gives back its memory, its TLS blocks, its unwind tables, its symbols and
    /// its names. `stacks` is asked whether any code of it is being executed.
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
    /// Needs no memory. Tasks go on meanwhile, so an answer may be a moment old.
    ///
    /// # Errors
    ///
    /// [`UnloadError`] says who needs the object. Nothing has changed then.
    pub fn unload(&self, handle: &Handle<'_>, stacks: &dyn Stacks) -> Result<(), UnloadError> {
        let object = handle.object();
        let mut kept = self.objects.lock();
        let closed = unload::close(object, &kept.loaded, stacks)?;
        let place = kept.loaded.iter().position(|one| Shared::ptr_eq(&one.object, object));
        if let Some(place) = place {
            // SAFETY: nothing of the object has been taken away yet.
            unsafe { kept.loaded[place].at_exit.run() };
        }
        kept.remove(|other| Shared::ptr_eq(other, object));
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

    /// The values of all symbols, and the objects that some of them are from.
    fn resolve(
        &self,
        elf: &Elf<'_>,
        needs: &Needs,
        layout: &Layout,
        base: u64,
        space: &Space<'_>,
        loaded: &[Loaded<'_>],
    ) -> Result<(Vec<Value>, Vec<Shared<Object>>), LoadError> {
        let bound_to: RefCell<Vec<Shared<Object>>> = RefCell::default();
        let out_of_memory = Cell::new(None);
        let earlier = |name: &str| {
            loaded.iter().find_map(|Loaded { object, .. }| {
                let value = object.value(name)?;
                let mut bound_to = bound_to.borrow_mut();
                if !bound_to.iter().any(|other| Shared::ptr_eq(other, object)) {
                    // Reported below: who asks for symbols wants to know them only.
                    let pushed = push(&mut bound_to, Shared::clone(object));
                    out_of_memory.set(pushed.err().or(out_of_memory.take()));
                }
                Some(value)
            })
        };
        let values = Resolver {
            elf,
            wants: &needs.symbols,
            layout,
            base,
            tls: space.block(),
            calls: &needs.calls,
            earlier: &earlier,
            program: self.program,
        }
        .resolve()?;
        out_of_memory.into_inner().map_or(Ok(()), Err)?;
        Ok((values, bound_to.into_inner()))
    }
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
}

/// Copies what the sections have in the file to their places; the rest of the region is zero.
fn copy(elf: &Elf<'_>, layout: &Layout, region: &mut [u8]) {
    for (section, place) in elf.sections.iter().zip(&layout.places) {
        if let Place::Memory(range) = place {
            copy_section(section.data, &mut region[range.clone()]);
        }
    }
}

/// The initial values of the object's TLS block, not yet relocated.
fn tls_image(elf: &Elf<'_>, layout: &Layout) -> Result<Vec<u8>, TryReserveError> {
    let mut image = filled(0, layout.tls.image)?;
    for (section, place) in elf.sections.iter().zip(&layout.places) {
        if let Place::Tls(range) = place
            && let Some(to) = image.get_mut(range.clone())
        {
            copy_section(section.data, to);
        }
    }
    Ok(image)
}

/// Copies a section that has contents: as many as its place, which for `.eh_frame` is without
/// its terminator.
fn copy_section(data: &[u8], to: &mut [u8]) {
    let len = data.len().min(to.len());
    to[..len].copy_from_slice(&data[..len]);
}
