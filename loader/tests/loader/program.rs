//! A program for loaded objects to refer to, and a registry for their thread-local variables.

use std::collections::BTreeMap;
use std::sync::Mutex;

use unspool_loader::{PAGE, Symbols};
use unspool_tls::{Registry, Template};

use crate::memory::low_pages;

/// Bytes of TLS surplus in the tests' registries.
pub const SURPLUS: usize = 16 << 10;

pub fn registry() -> Registry {
    Registry::new(Template::EMPTY, SURPLUS).unwrap()
}

/// A program that offers some symbols.
#[derive(Default)]
pub struct Program {
    known: BTreeMap<&'static str, u64>,
    tls: BTreeMap<&'static str, i32>,
    /// What every other name means.
    others: Option<u64>,
}

impl Program {
    /// What compiled code expects of its environment, and nothing else.
    pub fn bare() -> Self {
        Self::default()
            .with("memcpy", libc::memcpy as *const () as u64)
            .with("memmove", libc::memmove as *const () as u64)
            .with("memset", libc::memset as *const () as u64)
            .with("memcmp", libc::memcmp as *const () as u64)
    }

    /// The same, and every other name (but those that objects bring along in COMDAT groups) is a
    /// function that must not be called.
    pub fn full() -> Self {
        Self { others: Some(trap()), ..Self::bare() }
    }

    pub fn with(mut self, name: &'static str, address: u64) -> Self {
        self.known.insert(name, address);
        self
    }

    pub fn with_tls(mut self, name: &'static str, offset: i32) -> Self {
        self.tls.insert(name, offset);
        self
    }
}

impl Symbols for Program {
    fn address_of(&self, name: &str) -> Option<u64> {
        let other = self.others.filter(|_| !name.starts_with("DW.ref."));
        self.known.get(name).copied().or(other)
    }

    fn tls_offset_of(&self, name: &str) -> Option<i32> {
        self.tls.get(name).copied()
    }
}

/// The address of code below 2 GiB that traps.
pub fn trap() -> u64 {
    static TRAP: Mutex<Option<u64>> = Mutex::new(None);
    *TRAP.lock().unwrap().get_or_insert_with(|| {
        let page = low_pages(PAGE).unwrap();
        // SAFETY: the page is ours; 0xcc is `int3`.
        unsafe { page.write_bytes(0xcc, PAGE) };
        let access = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::mprotect(page.as_ptr().cast(), PAGE, access) }, 0);
        page.as_ptr() as u64
    })
}
