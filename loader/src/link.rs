//! The journey of one set, step by step; every step's product is given back if a later one fails.
//!
//! ```text
//!  set ─► unit ─► archives ─► eh_frame ─► scan ─► placement ─► tls ─► symbols ─► memory
//!         which   which       what does   what    where does   block  what is    map, copy
//!         files   members     nobody      is      each section        elsewhere     │
//!                             need        needed  go?                               ▼
//!         object ◄─ tls: publish ◄─ unwind: register ◄─ seal ◄─ relocate ◄─ symbols: values
//! ```

use alloc::vec::Vec;

use object::elf;
use unspool_tls::Registry;

use crate::archive;
use crate::archives::{self, Archives};
use crate::atexit::Registrations;
use crate::eh_frame::EhFrame;
use crate::entry::Entry;
use crate::error::{Cause, LoadError};
use crate::got::{Slot, Slots};
use crate::initializers::{self, Functions};
use crate::memory::{Memory, Region};
use crate::names::{Names, Pool};
use crate::object::{Loaded, Object};
use crate::placement::{self, Group, Layout};
use crate::reloc::{self, GOT_WORD, Image, Needs};
use crate::set::Set;
use crate::shared::Shared;
use crate::symbols::{self, Resolver, Scope, Symbols, Value};
use crate::tls::{Block, Space};
use crate::unit::{FileName, Unit};
use crate::unwind::Unwind;

/// What linking takes from the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Link<'k> {
    pub memory: &'k dyn Memory,
    pub program: &'k dyn Symbols,
    pub tls: &'k Registry,
}

/// A unit whose symbols are known as far as they can be before it has an address.
struct Planned<'k, 'a> {
    unit: Unit<'a>,
    eh_frame: EhFrame,
    needs: Needs,
    layout: Layout,
    space: Space<'k>,
    bound_to: Vec<Shared<Object>>,
}

impl<'k> Link<'k> {
    /// Makes an object of a set, and what is to be called when it is there for everyone.
    pub fn load(
        self,
        set: &Set<'_>,
        loaded: &[Loaded<'k>],
        pools: &[Shared<Pool>],
    ) -> Result<(Loaded<'k>, Functions), LoadError> {
        let of_set = |cause: Cause| LoadError::new(set.name.into(), cause);
        let planned = self.plan(set, Scope { loaded, program: self.program })?;
        let Planned { mut unit, eh_frame, needs, layout, space, bound_to } = planned;

        let map = Region::map(self.memory, layout.size);
        let mut region = map.map_err(|error| of_set(error.into()))?;
        let (base, block) = (region.address(), space.block());
        let mut tls = zeroes(layout.tls.image).map_err(of_set)?;
        symbols::evaluate(&mut unit, &needs.slots, &layout, base, block)?;
        copy(&unit, &eh_frame, &layout, region.bytes(), &mut tls);
        Image {
            unit: &unit,
            eh_frame: &eh_frame,
            layout: &layout,
            slots: &needs.slots,
            with_slots: &needs.with_slots,
            base,
            region: region.bytes(),
            tls: &mut tls,
            block,
            module: space.module(),
        }
        .relocate()?;

        let functions = Functions::collect(&unit, &layout, region.bytes()).map_err(of_set)?;
        let mut names = Names::collect(set.name, &unit, &layout, base).map_err(of_set)?;
        names.share(pools);
        let finish = || {
            // Resolvers may register something; it is forgotten if a later step fails.
            let all = base..base + layout.size as u64;
            let _at_exit = Registrations::of(all);
            let complete = |region: &mut Region<'_>| {
                resolve_indirect(&unit, &needs.slots, &layout, region);
            };
            let sealed = region.seal(&layout, complete)?;
            // SAFETY: on errors from here on, `unwind` is dropped before `sealed`, which was made
            // earlier; a `Loaded` drops them in the same order.
            let unwind = unsafe { Unwind::register(&layout, eh_frame.entries, &sealed) }?;
            let tls = space.publish(&tls)?;
            let object = Shared::try_new(Object::new(names, &layout, base, &tls))?;
            let (_unwind, _memory, finalizers) = (unwind, sealed, functions.1);
            let loaded = Loaded { object, bound_to, finalizers, _at_exit, _unwind, tls, _memory };
            Ok((loaded, functions.0))
        };
        finish().map_err(of_set)
    }

    fn plan<'a>(self, set: &Set<'a>, scope: Scope<'_, 'k>) -> Result<Planned<'k, 'a>, LoadError> {
        let of_set = |cause: Cause| LoadError::new(set.name.into(), cause);
        let mut unit = gather(set, scope)?;
        let eh_frame = EhFrame::cut(&unit)?;
        let needs = reloc::scan(&mut unit, &eh_frame)?;
        let layout = placement::place(set.name, &mut unit, &eh_frame, &needs.slots)?;
        let space = Space::find(self.tls, &layout.tls, needs.static_space, needs.module);
        let space = space.map_err(of_set)?;
        let bound_to =
            Resolver::resolve(scope, &mut unit, &needs, space.block()).map_err(of_set)?;
        Ok(Planned { unit, eh_frame, needs, layout, space, bound_to })
    }
}

/// The files of a set, with the members of its archives that are needed.
fn gather<'a>(set: &Set<'a>, scope: Scope<'_, '_>) -> Result<Unit<'a>, LoadError> {
    let of_set = |cause: Cause| LoadError::new(set.name.into(), cause);
    let (mut unit, mut archives) = (Unit::default(), Archives::default());
    for input in set.inputs {
        match (archive::is_archive(input.bytes), input.whole) {
            (false, _) => unit.add(FileName { file: input.name, member: None }, input.bytes)?,
            (true, true) => archives::add_whole(&mut unit, input)?,
            (true, false) => archives.add(input)?,
        }
    }
    for root in set.roots {
        unit.add_root(root).map_err(|error| of_set(error.into()))?;
    }
    archives.complete(&mut unit, |name, tls| scope.has(name, tls))?;
    Ok(unit)
}

fn zeroes(count: usize) -> Result<Vec<u8>, Cause> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(count)?;
    bytes.resize(count, 0);
    Ok(bytes)
}

/// Copies what the sections have in their files to their places; the rest is zero.
fn copy(unit: &Unit<'_>, eh_frame: &EhFrame, layout: &Layout, region: &mut [u8], tls: &mut [u8]) {
    for (file, index, place) in unit.sections() {
        if !place.group.is_loaded() {
            continue;
        }
        let file = &unit.files[file];
        let data = file.elf.section(index).data;
        let to = if place.group == Group::TlsImage { &mut *tls } else { &mut *region };
        let cut = match place.group {
            Group::TlsZeroed => continue,
            Group::EhFrame => eh_frame.of(file.first_section + index),
            _ => None,
        };
        match cut {
            Some(cut) => cut.copy(data, &mut to[layout.start(place)..]),
            // The chain goes on where this one has its terminator; the next copy overwrites it.
            None => to[layout.start(place)..][..data.len()].copy_from_slice(data),
        }
    }
}

/// Asks the resolvers of indirect functions, whose code can run by now, where these are.
fn resolve_indirect(unit: &Unit<'_>, slots: &Slots, layout: &Layout, region: &mut Region<'_>) {
    if !unit.has_indirect {
        return;
    }
    let base = region.address();
    let indirect = |entry: &&Entry<'_>| entry.kind == elf::STT_GNU_IFUNC && !entry.elsewhere;
    for entry in unit.entries.iter().filter(indirect) {
        let resolver = unit.location_of(entry).value(layout, base, Block::Static(0));
        let word = slots.got(Slot::Indirect, entry.slots);
        if let (Some(Value::Address(resolver)), Some(word)) = (resolver, word) {
            // SAFETY: code of the object, which is in its place and complete but for what such
            // resolvers fill in. That it is a function is for whoever vouches for the object.
            let function = unsafe { initializers::resolve(resolver) };
            region.put_word(layout.got + word * GOT_WORD, function);
        }
    }
}
