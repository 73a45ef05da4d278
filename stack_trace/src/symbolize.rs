//! From an address to a name.
#![forbid(unsafe_code)]

/// A symbol as it stands in an ELF symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// The name, mangled if it was.
    pub name: &'a str,
    /// Where it starts.
    pub address: u64,
    /// How many bytes it has; 0 if the table does not say.
    pub size: u64,
}

/// Knows the names of addresses.
///
/// Implementations take no lock and no heap: they are asked during panics, faults and NMIs.
pub trait Symbolize: Sync {
    /// The function around `address`.
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>>;
}

/// Knows no name.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSymbols;

impl Symbolize for NoSymbols {
    fn symbolize(&self, _address: u64) -> Option<Symbol<'_>> {
        None
    }
}

impl<S: Symbolize + ?Sized> Symbolize for &S {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        (**self).symbolize(address)
    }
}

impl<S: Symbolize> Symbolize for Option<S> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        self.as_ref()?.symbolize(address)
    }
}

/// The first that knows: the program's own table, then what was loaded.
impl<A: Symbolize, B: Symbolize> Symbolize for (A, B) {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        self.0.symbolize(address).or_else(|| self.1.symbolize(address))
    }
}
