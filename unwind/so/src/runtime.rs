//! Whether C++'s personality is libstdc++'s, whose answers are known where nothing is thrown at it.
//!
//! ```text
//!   __gxx_personality_v0, a weak reference ─► object ─► DT_SONAME = libstdc++.so.6 ? its address : 0
//! ```
//!
//! A program that defines the name itself has the reference bound to its own; so has one that preloads
//! another library with it. Both are asked, as is the personality of libstdc++ where it is linked
//! statically, is loaded after this library, or has its address in a program that was not made to be
//! placed anywhere: nobody says that these are what they look like. Rust's is in every program anew,
//! without a name, and is asked, too.
#![forbid(unsafe_code)]

use unspool_unwind::Section;

use crate::arch::cpp_personality;
use crate::objects::{Linked, linked};

/// The name of the library that it has to be in. As long as it has this name, what libstdc++.so's
/// personality answers is what programs compiled by then rely on.
const LIBRARY: &[u8] = b"libstdc++.so.6\0";

// gABI, "Dynamic Section".
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;

/// The address of libstdc++'s personality, or 0.
pub(crate) fn personality() -> u64 {
    let address = cpp_personality();
    let is_known = || linked(address).is_some_and(|object| is_named(&object, LIBRARY));
    if address != 0 && is_known() { address } else { 0 }
}

/// Whether an object has this name, which ends with a zero.
fn is_named(object: &Linked, name: &[u8]) -> bool {
    let find = |tag| find(object, tag);
    let (Some(strings), Some(offset)) = (find(DT_STRTAB), find(DT_SONAME)) else { return false };
    // The linker has put addresses in the place of offsets, where it could write them.
    [strings, strings.wrapping_add(object.base)].into_iter().any(|strings| {
        let text = object.memory.rest_at(strings.wrapping_add(offset));
        text.is_some_and(|text| text.starts_with(name))
    })
}

/// The value that the object's dynamic section has for a tag.
fn find(object: &Linked, tag: u64) -> Option<u64> {
    let Section { data, address } = object.memory;
    let start = usize::try_from(object.dynamic.checked_sub(address)?).ok()?;
    let (words, _) = data.get(start..)?.as_chunks::<8>();
    let (entries, _) = words.as_chunks::<2>();
    let entries = entries.iter().map(|entry| entry.map(u64::from_le_bytes));
    entries
        .take_while(|[tag, _]| *tag != DT_NULL)
        .find(|[each, _]| *each == tag)
        .map(|[_, value]| value)
}
