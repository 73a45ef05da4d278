//! A script of the specification's tests, as it travels from the host to the kernel.
//!
//! ```text
//!   NAME.wast ─► parsed, compiled ─► Script (postcard) ─► NAME.spec, a module ─► run
//! ```
//!
//! Code is not copied: it is read where the boot loader put it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A file of the suite: what is left of it to do at run time.
#[derive(Debug, Serialize, Deserialize)]
pub struct Script<'c> {
    /// Its directives, each with its line.
    #[serde(borrow)]
    pub directives: Vec<(u32, Directive<'c>)>,
}

/// A name of a module or an instance in a script.
pub type Id = Option<String>;

/// What a script says is to be done, and what must come of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Directive<'c> {
    /// Define a module, and instantiate it.
    Module(Id, &'c [u8]),
    /// Define a module.
    Define(Id, &'c [u8]),
    /// Instantiate a defined module: the instance's name, the module's name.
    Instance(Id, Id),
    /// Offer an instance to imports under a name.
    Register(String, Id),
    /// Do it.
    Perform(#[serde(borrow)] Action<'c>),
    /// It must return these.
    Return(#[serde(borrow)] Action<'c>, Vec<Expected>),
    /// It must trap, for this reason.
    Trap(#[serde(borrow)] Action<'c>, String),
    /// It must throw an exception.
    Exception(#[serde(borrow)] Action<'c>),
    /// The module must not link.
    Unlinkable(&'c [u8]),
}

/// What is done.
#[derive(Debug, Serialize, Deserialize)]
pub enum Action<'c> {
    /// Call an export.
    Invoke(Id, String, Vec<Argument>),
    /// Read a global.
    Get(Id, String),
    /// Instantiate a module.
    Instantiate(&'c [u8]),
}

/// To which hierarchy a null belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Null {
    /// `nofunc`.
    Func,
    /// `noextern`.
    Extern,
    /// `none`.
    Any,
    /// `noexn`.
    Exn,
}

/// A value; floating-point numbers by their bits.
#[derive(Debug, Serialize, Deserialize)]
pub enum Argument {
    /// 32 bits.
    I32(i32),
    /// 64 bits.
    I64(i64),
    /// 32 bits of a float.
    F32(u32),
    /// 64 bits of a float.
    F64(u64),
    /// 128 bits.
    V128(u128),
    /// A null reference.
    Null(Null),
    /// A reference to a host value, as `externref`.
    Extern(u32),
    /// A reference to a host value, as `anyref`.
    Host(u32),
}

/// A float that is expected.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Float<T> {
    /// A NaN whose payload is the highest bit alone.
    CanonicalNan,
    /// A NaN whose payload has the highest bit.
    ArithmeticNan,
    /// These bits.
    Bits(T),
}

/// A result that is expected.
#[derive(Debug, Serialize, Deserialize)]
pub enum Expected {
    /// 32 bits.
    I32(i32),
    /// 64 bits.
    I64(i64),
    /// A float.
    F32(Float<u32>),
    /// A float.
    F64(Float<u64>),
    /// 128 bits.
    V128(u128),
    /// Four floats.
    F32x4([Float<u32>; 4]),
    /// Two floats.
    F64x2([Float<u64>; 2]),
    /// A null, of this hierarchy if one is named.
    Null(Option<Null>),
    /// An `externref`, to this value if one is named.
    Extern(Option<u32>),
    /// An `anyref` to a host value.
    Host(u32),
    /// A function.
    Func,
    /// An `anyref` that is not null.
    Any,
    /// One of its kind.
    Eq,
    /// One of its kind.
    Array,
    /// One of its kind.
    Struct,
    /// One of its kind.
    I31,
    /// One of these.
    Either(Vec<Expected>),
}
