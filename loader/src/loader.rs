//! The journey of one object, step by step; every step's product is given back if a later one
//! fails.

use alloc::vec;
use alloc::vec::Vec;

use unspool_stack_trace::{Symbol, Symbolize};
use unspool_tls::{Registry, Reserved};

use crate::elf::Elf;
use crate::error::LoadError;
use crate::list::List;
use crate::memory::{Memory, Region};
use crate::object::{Names, Object, Unwind};
use crate::placement::{self, Layout, Place};
use crate::reloc::{self, Image};
use crate::symbols::{Resolver, Symbols, Value};

/// Loads relocatable objects, and keeps them.
pub struct Loader<'k> {
    memory: &'k dyn Memory,
    program: &'k dyn Symbols,
    tls: &'k Registry,
    objects: List<Object<'k>>,
}

impl<'k> Loader<'k> {
    /// A loader without objects: `memory` is where they will lie, `program` what they may refer
    /// to, `tls` where their thread-local variables will live.
    pub const fn new(memory: &'k dyn Memory, program: &'k dyn Symbols, tls: &'k Registry) -> Self {
        Self { memory, program, tls, objects: List::new() }
    }

    /// Loads the relocatable object `file` under a name of the caller's choice (names may repeat).
    ///
    /// When this returns, the object's code can be called, its panics unwind, its functions have
    /// names in traces, and its thread-local variables exist in every task. Objects are loaded
    /// one at a time; a second caller spins, so interrupt handlers must not load.
    ///
    /// Whoever calls into the object (by making a function pointer from
    /// [`Object::symbol`], which takes `unsafe`) vouches for its contents, and for keeping the
    /// loader while its code may run.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says what is wrong. Nothing of the object stays mapped, reserved or registered
    /// then.
    pub fn load(&self, name: &str, file: &[u8]) -> Result<&Object<'k>, LoadError> {
        let elf = Elf::parse(file)?;
        let groups = placement::classify(&elf)?;
        let needs = reloc::scan(&elf, &groups)?;
        let layout = placement::place(&elf, &groups, &needs.slots)?;

        let appender = self.objects.lock();
        let mut region = Region::map(self.memory, layout.size)?;
        let base = region.address();
        copy(&elf, &layout, region.bytes());
        let reserved = self.reserve_tls(&layout)?;
        let mut tls_image = tls_image(&elf, &layout);

        let values = Resolver {
            elf: &elf,
            wants: &needs.symbols,
            layout: &layout,
            base,
            tls: reserved.as_ref().map_or(0, |reserved| reserved.offset().get().into()),
            earlier: &|name| self.value(name),
            program: self.program,
        }
        .resolve()?;
        Image {
            elf: &elf,
            groups: &groups,
            layout: &layout,
            slots: &needs.slots,
            values: &values,
            base,
            region: region.bytes(),
            tls: &mut tls_image,
        }
        .relocate()?;

        let sealed = region.seal(&layout)?;
        // SAFETY: on errors from here on, `unwind` is dropped before `sealed`, which was made
        // earlier; an `Object` drops them in the same order.
        let unwind = unsafe { Unwind::register(&layout, &sealed) }?;
        let names = Names::collect(name, &elf, &layout, base, &values);
        let tls = reserved.map(|reserved| reserved.publish(&tls_image)).transpose()?;
        Ok(appender.push(Object::new(names, &layout, unwind, tls, sealed)))
    }

    /// The loaded objects, oldest first.
    pub fn objects(&self) -> impl Iterator<Item = &Object<'k>> {
        self.objects.iter()
    }

    /// The address of a global symbol of the first object that offers it.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.objects().find_map(|object| object.symbol(name))
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.objects().find_map(|object| object.value(name))
    }

    fn reserve_tls(&self, layout: &Layout) -> Result<Option<Reserved<'k>>, LoadError> {
        if layout.tls.size == 0 {
            return Ok(None);
        }
        Ok(Some(self.tls.reserve(layout.tls.size, layout.tls.align)?))
    }
}

impl Symbolize for Loader<'_> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        self.objects().find_map(|object| object.function(address))
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
fn tls_image(elf: &Elf<'_>, layout: &Layout) -> Vec<u8> {
    let mut image = vec![0; layout.tls.image];
    for (section, place) in elf.sections.iter().zip(&layout.places) {
        if let Place::Tls(range) = place
            && let Some(to) = image.get_mut(range.clone())
        {
            copy_section(section.data, to);
        }
    }
    image
}

/// Copies a section that has contents: as many as its place, which for `.eh_frame` is without
/// its terminator.
fn copy_section(data: &[u8], to: &mut [u8]) {
    let len = data.len().min(to.len());
    to[..len].copy_from_slice(&data[..len]);
}
