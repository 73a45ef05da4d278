//! What a build for tests makes of the cache.
//!
//! ```text
//!   UNSPOOL_CACHE   remembers   entries   generations
//!   (not set)       yes           1,024   2³⁰
//!   off             no                    the tables are asked every time
//!   tiny            yes               2   each entry drives out another one
//!   wrap            yes           1,024   128, which come again all the time
//! ```
//!
//! The environment of the build decides (`cargo xtask test cache` sets it); another value does not
//! compile. Nothing is asked at run time.
#![forbid(unsafe_code)]

/// What is to be different.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    None,
    Off,
    Tiny,
    Wrap,
}

const VARIANT: Variant = match option_env!("UNSPOOL_CACHE") {
    None => Variant::None,
    Some(name) => match name.as_bytes() {
        b"off" => Variant::Off,
        b"tiny" => Variant::Tiny,
        b"wrap" => Variant::Wrap,
        _ => panic!("UNSPOOL_CACHE: neither `off` nor `tiny` nor `wrap`"),
    },
};

/// Whether anything is remembered.
pub(crate) const REMEMBERS: bool = !matches!(VARIANT, Variant::Off);

/// How many addresses are remembered; a power of two. 1,024 of them take 64 KiB.
pub(crate) const ENTRIES: usize = if matches!(VARIANT, Variant::Tiny) { 2 } else { 1024 };

/// Bits of a version of the table of modules that tell its generation; the lowest does not.
pub(crate) const GENERATION_BITS: u32 = if matches!(VARIANT, Variant::Wrap) { 8 } else { 31 };
