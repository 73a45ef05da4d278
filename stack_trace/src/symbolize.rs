//! From an address to names: of functions, of places in files, of modules.
//!
//! ```text
//!   address ─┬─► symbolize   the symbol around it            for whoever needs its bounds
//!            ├─► functions   inlined … inlined, outermost    with file:line where that is known
//!            └─► place       module(section)+offset          where nothing else is known
//! ```
#![forbid(unsafe_code)]

use core::fmt;

use crate::name::Name;

/// A symbol as it stands in an ELF symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// The name, mangled if it was.
    pub name: Name<'a>,
    /// Where it starts.
    pub address: u64,
    /// How many bytes it has; 0 if the table does not say.
    pub size: u64,
}

/// A function that an address belongs to, or that was inlined there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name, mangled if it was.
    pub name: Option<Name<'a>>,
    /// What it was executing.
    pub location: Option<Location<'a>>,
}

impl Function<'_> {
    /// A function of which nothing is known.
    pub const UNKNOWN: Self = Self { name: None, location: None };
}

/// A place in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// The file, as the compiler was given it.
    pub file: &'a str,
    /// The line, from 1 on.
    pub line: u32,
    /// The column, from 1 on, if it is known.
    pub column: Option<u32>,
}

/// `file:line:column`, as std writes it.
impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.column {
            Some(column) => write!(f, ":{column}"),
            None => Ok(()),
        }
    }
}

/// A place in a file that was loaded: what an address means wherever it was loaded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// What it was loaded as.
    pub module: Name<'a>,
    /// The section, in files that are not linked.
    pub section: Option<Name<'a>>,
    /// Bytes from the start of the section, or else of the lowest segment.
    pub offset: u64,
}

/// `module(section)+0x10`: what `cargo xtask decode` reads.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.module)?;
        if let Some(section) = self.section {
            write!(f, "({section})")?;
        }
        write!(f, "+{:#x}", self.offset)
    }
}

/// Knows the names of addresses.
///
/// Implementations take no lock and no heap, unless they say so: they are asked during panics,
/// faults and NMIs.
pub trait Symbolize: Sync {
    /// The function around `address`, by a symbol table.
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>>;

    /// Shows the functions at `address`: those that were inlined there, the innermost first, and
    /// last the one around them. Returns whether there was any.
    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        let symbol = self.symbolize(address);
        if let Some(symbol) = symbol {
            each(&Function { name: Some(symbol.name), location: None });
        }
        symbol.is_some()
    }

    /// Where `address` lies in what was loaded.
    fn place(&self, address: u64) -> Option<Place<'_>> {
        let _ = address;
        None
    }

    /// The directory that short traces show files relative to, as std's do with the current one:
    /// where the program was compiled, say.
    fn directory(&self) -> Option<&str> {
        None
    }
}

/// Knows no name.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSymbols;

impl Symbolize for NoSymbols {
    fn symbolize(&self, _address: u64) -> Option<Symbol<'_>> {
        None
    }
}

/// Knows places only: for traces that are decoded elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnlyPlaces<S>(pub S);

impl<S: Symbolize> Symbolize for OnlyPlaces<S> {
    fn symbolize(&self, _address: u64) -> Option<Symbol<'_>> {
        None
    }

    fn place(&self, address: u64) -> Option<Place<'_>> {
        self.0.place(address)
    }
}

impl<S: Symbolize + ?Sized> Symbolize for &S {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        (**self).symbolize(address)
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        (**self).functions(address, each)
    }

    fn place(&self, address: u64) -> Option<Place<'_>> {
        (**self).place(address)
    }

    fn directory(&self) -> Option<&str> {
        (**self).directory()
    }
}

impl<S: Symbolize> Symbolize for Option<S> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        self.as_ref()?.symbolize(address)
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        self.as_ref().is_some_and(|symbols| symbols.functions(address, each))
    }

    fn place(&self, address: u64) -> Option<Place<'_>> {
        self.as_ref()?.place(address)
    }

    fn directory(&self) -> Option<&str> {
        self.as_ref()?.directory()
    }
}

/// The first that knows: debug information before a table, the program's own before what was loaded.
impl<A: Symbolize, B: Symbolize> Symbolize for (A, B) {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        self.0.symbolize(address).or_else(|| self.1.symbolize(address))
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        let mut inlined = 0_usize;
        if !self.0.functions(address, &mut |_| inlined += 1) {
            return self.1.functions(address, each);
        }
        // What is not inlined has a symbol, whose name has the path that DWARF may not tell.
        let symbol = self.symbolize(address).map(|symbol| symbol.name);
        let known = self.0.functions(address, &mut |function| {
            inlined = inlined.saturating_sub(1);
            let name = function.name.filter(|_| inlined > 0 || symbol.is_none()).or(symbol);
            each(&Function { name, location: function.location });
        });
        // Debug information that somebody else is reading by now has no answer.
        known || self.1.functions(address, each)
    }

    fn place(&self, address: u64) -> Option<Place<'_>> {
        self.0.place(address).or_else(|| self.1.place(address))
    }

    fn directory(&self) -> Option<&str> {
        self.0.directory().or_else(|| self.1.directory())
    }
}
