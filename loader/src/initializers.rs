//! Which functions an object wants to have called when it has been loaded, and before it goes.
//!
//! ```text
//!   loaded     .preinit_array ─► .init_array.00101 ─► … ─► .init_array, .ctors (each from its end)
//!   unloaded   __cxa_atexit ─► .fini_array, .dtors ─► … ─► .fini_array.00101 ─► __cxa_atexit of these
//! ```
//!
//! Promise: the order is that of GNU linkers and C libraries: priorities first (`.ctors.65434` has
//! that of `.init_array.00101`), then files; what is destroyed goes in the opposite order. Slots
//! with 0 or −1, as old tables begin and end with, are passed over. Reference: gABI chapter 5,
//! "Initialization and Termination Functions".
//!
//! The functions get no arguments: a count of 0 and two empty lists. They run on the task that loads
//! or unloads. One that lets an exception out aborts (C++ [basic.start.dynamic]).

use alloc::vec::Vec;
use core::ffi::{c_char, c_int};
use core::ptr::{null, with_exposed_provenance};

use object::elf;

use crate::elf::Section;
use crate::error::Cause;
use crate::placement::{Group, Layout, is_part};
use crate::unit::Unit;

/// A word of a list: the address of a function.
const WORD: usize = 8;

/// The priority of what has none, and comes last.
const DEFAULT: u32 = 65536;

/// When the functions of a section are called, and in which order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Order {
    pub phase: Phase,
    pub priority: u32,
    /// Whether from the last to the first.
    pub backwards: bool,
}

/// When.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Before all others when loaded.
    First,
    Load,
    Unload,
}

/// When the functions are called that a section lists, if it does.
pub(crate) fn order_of(section: &Section<'_>, name: &str) -> Option<Order> {
    const NAMED: [(&str, Phase, bool); 5] = [
        (".preinit_array", Phase::First, false),
        (".init_array", Phase::Load, false),
        (".fini_array", Phase::Unload, false),
        (".ctors", Phase::Load, true),
        (".dtors", Phase::Unload, true),
    ];
    let named = NAMED.into_iter().find(|&(base, ..)| is_part(name, base));
    let (phase, priority, backwards) = match (named, section.kind) {
        (Some((base, phase, backwards)), _) => {
            let number = name[base.len()..].strip_prefix('.').and_then(|rest| rest.parse().ok());
            let priority = match number {
                // These count down.
                Some(number) if backwards => 65535_u32.checked_sub(number),
                number => number,
            };
            (phase, priority, backwards)
        }
        (_, elf::SHT_PREINIT_ARRAY) => (Phase::First, None, false),
        (_, elf::SHT_INIT_ARRAY) => (Phase::Load, None, false),
        (_, elf::SHT_FINI_ARRAY) => (Phase::Unload, None, false),
        _ => return None,
    };
    let priority = priority.map_or(DEFAULT, |priority| priority.min(DEFAULT));
    Some(Order { phase, priority, backwards })
}

/// Functions to call, in their order.
#[derive(Default)]
pub(crate) struct Functions(Vec<u64>);

/// A list of functions in the region.
struct List {
    order: Order,
    /// Which it is among all, as the files are.
    number: usize,
    at: usize,
    len: usize,
}

impl Functions {
    /// What to call after loading, and before unloading. `region` is relocated.
    pub fn collect(unit: &Unit<'_>, layout: &Layout, region: &[u8]) -> Result<(Self, Self), Cause> {
        let mut lists = Vec::new();
        for (file, index, place) in unit.sections() {
            if place.group != Group::Functions {
                continue;
            }
            let elf = &unit.files[file].elf;
            let section = elf.section(index);
            let Some(order) = order_of(&section, elf.section_name(&section)) else { continue };
            let (number, at) = (lists.len(), layout.start(place));
            lists.try_reserve(1)?;
            lists.push(List { order, number, at, len: section.size as usize });
        }
        lists.sort_unstable_by_key(|list| (list.order.phase, list.order.priority, list.number));
        let (mut load, mut unload) = (Self::default(), Self::default());
        for list in &lists {
            let functions = if list.order.phase == Phase::Unload { &mut unload } else { &mut load };
            functions.add(&region[list.at..list.at + list.len], list.order.backwards)?;
        }
        unload.0.reverse();
        Ok((load, unload))
    }

    fn add(&mut self, words: &[u8], backwards: bool) -> Result<(), Cause> {
        let (words, _) = words.as_chunks::<WORD>();
        let start = self.0.len();
        self.0.try_reserve(words.len())?;
        let functions = words.iter().map(|word| u64::from_le_bytes(*word));
        self.0.extend(functions.filter(|&function| function != 0 && function != u64::MAX));
        if backwards {
            self.0[start..].reverse();
        }
        Ok(())
    }

    /// Calls all of them.
    ///
    /// # Safety
    ///
    /// They are functions of an object that is loaded, and stays meanwhile.
    pub unsafe fn call(&self) {
        for &function in &self.0 {
            let function = with_exposed_provenance::<()>(function as usize);
            // SAFETY: the caller's promise; lists have functions of this type, or of one with
            // fewer arguments, which the System V ABI allows to be called so.
            let function = unsafe { core::mem::transmute::<*const (), Function>(function) };
            call(function);
        }
    }
}

/// What the resolver of an indirect function at `address` answers.
///
/// # Safety
///
/// There is a function of this type, whose object is complete but for other such functions.
pub(crate) unsafe fn resolve(address: u64) -> u64 {
    type Resolver = unsafe extern "C-unwind" fn() -> u64;
    extern "C" fn call(resolver: Resolver) -> u64 {
        // SAFETY: the caller of `resolve` vouches for it.
        unsafe { resolver() }
    }
    let resolver = with_exposed_provenance::<()>(address as usize);
    // SAFETY: the caller's promise.
    call(unsafe { core::mem::transmute::<*const (), Resolver>(resolver) })
}

/// What is in the lists: C libraries pass the arguments of `main`.
type Function = unsafe extern "C-unwind" fn(c_int, *const *const c_char, *const *const c_char);

/// Calls a function with an empty list of arguments and an empty environment. Nothing unwinds out
/// of here: a function of this ABI aborts instead.
extern "C" fn call(function: Function) {
    let empty: *const c_char = null();
    // SAFETY: whoever calls `Functions::call` vouches for the function.
    unsafe { function(0, &raw const empty, &raw const empty) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str) -> Option<(Phase, u32, bool)> {
        let file = crate::sample::object(&[crate::sample::data(name, &[0; 8])]);
        let elf = crate::elf::Elf::parse(&file).unwrap();
        let order = order_of(&elf.section(1), name)?;
        Some((order.phase, order.priority, order.backwards))
    }

    #[test]
    fn names_say_when_and_in_which_order() {
        assert_eq!(order(".init_array"), Some((Phase::Load, DEFAULT, false)));
        assert_eq!(order(".init_array.00101"), Some((Phase::Load, 101, false)));
        assert_eq!(order(".ctors.65434"), Some((Phase::Load, 101, true)));
        assert_eq!(order(".ctors"), Some((Phase::Load, DEFAULT, true)));
        assert_eq!(order(".dtors.00000"), Some((Phase::Unload, 65535, true)));
        assert_eq!(order(".fini_array.7"), Some((Phase::Unload, 7, false)));
        assert_eq!(order(".preinit_array"), Some((Phase::First, DEFAULT, false)));
        assert_eq!(order(".init_array.x"), Some((Phase::Load, DEFAULT, false)));
        assert_eq!(order(".init_arrays"), None);
        assert_eq!(order(".data"), None);
    }
}
