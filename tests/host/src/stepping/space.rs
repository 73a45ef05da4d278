//! What a process has mapped: modules with tables, and stacks.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use unspool_unwind::{FindModule, Known, Module, Trail};

use super::child::Child;
use crate::image::Image;

/// Bytes by which the first thread's stack grows at most.
const GROWTH: u64 = 8 << 20;
const PAGE: u64 = 0x1000;

/// A function of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// The function's name, or else its link-time address.
    pub function: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.function)
    }
}

/// A file's tables and names.
struct File {
    image: Image,
    /// Names of functions, by link-time address.
    names: BTreeMap<u64, String>,
}

impl File {
    fn parse(path: &Path, data: &[u8]) -> Option<Self> {
        let image = Image::parse(path, data).ok()?;
        let file = object::File::parse(data).ok()?;
        let names = file.symbols().chain(file.dynamic_symbols());
        let names = names.filter(|symbol| {
            symbol.is_definition() && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label)
        });
        let names = names.filter_map(|s| Some((s.address(), s.name().ok()?.to_owned())));
        Some(Self { image, names: names.collect() })
    }
}

/// A part of the address space.
struct Mapping {
    range: Range<u64>,
    writable: bool,
    name: String,
}

/// The address space of a process, as it was when last asked for.
pub struct Space {
    files: HashMap<PathBuf, Option<Rc<File>>>,
    /// Files and how many bytes above their link-time addresses they are.
    loaded: Vec<(Rc<File>, u64)>,
    mappings: Vec<Mapping>,
    rules: RefCell<HashMap<u64, Known>>,
}

impl Space {
    /// What the process has mapped now.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn new(child: &Child) -> Result<Self> {
        let mut space = Self {
            files: HashMap::new(),
            loaded: Vec::new(),
            mappings: Vec::new(),
            rules: RefCell::default(),
        };
        space.refresh(child)?;
        Ok(space)
    }

    /// Asks again for what is mapped, of which no code has changed.
    pub fn refresh_stacks(&mut self, child: &Child) -> Result<()> {
        self.mappings = child.maps()?.lines().filter_map(mapping).collect();
        Ok(())
    }

    /// Asks again.
    pub fn refresh(&mut self, child: &Child) -> Result<()> {
        self.refresh_stacks(child)?;
        self.loaded.clear();
        self.rules.borrow_mut().clear();
        let mut before = "";
        let mut found = Vec::new();
        for Mapping { range, name, .. } in &self.mappings {
            if name == "[vdso]" || (name.starts_with('/') && name != before) {
                found.push((range.clone(), PathBuf::from(name)));
            }
            before = name;
        }
        for (range, path) in found {
            let file = self.files.entry(path).or_insert_with_key(|path| {
                let data = if path.is_absolute() {
                    fs::read(path).ok()?
                } else {
                    let mut data = vec![0; (range.end - range.start) as usize];
                    child.read(range.start, &mut data).then_some(data)?
                };
                File::parse(path, &data).map(Rc::new)
            });
            if let Some(file) = file {
                let bias = range.start.wrapping_sub(file.image.start() & !(PAGE - 1));
                self.loaded.push((Rc::clone(file), bias));
            }
        }
        Ok(())
    }

    /// The stack with this address in it.
    pub fn stack(&self, sp: u64) -> Option<Range<u64>> {
        let Mapping { range, name, .. } = self.mapping(sp).filter(|mapping| mapping.writable)?;
        Some(if name == "[stack]" { range.end - GROWTH..range.end } else { range.clone() })
    }

    fn mapping(&self, address: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| {
            let grown = if mapping.name == "[stack]" { GROWTH } else { 0 };
            mapping.range.contains(&address)
                || (mapping.range.end.saturating_sub(grown)..mapping.range.end).contains(&address)
        })
    }

    /// Whether a module's code lies in these bytes.
    pub fn has_code_in(&self, range: &Range<u64>) -> bool {
        self.loaded.iter().any(|(file, bias)| {
            let (start, end) = file.image.module_at(*bias).text;
            start < range.end && range.start < end
        })
    }

    fn file(&self, address: u64) -> Option<&(Rc<File>, u64)> {
        self.loaded.iter().find(|(file, bias)| file.image.module_at(*bias).contains(address))
    }

    /// Where an address is: the file, the function, its link-time address.
    pub fn place(&self, address: u64) -> (Place, u64) {
        let Some((file, bias)) = self.file(address) else {
            let name = self.mapping(address).map_or("nowhere", |mapping| &mapping.name);
            let file = if name.is_empty() { "memory" } else { name }.to_owned();
            return (Place { file, function: String::new() }, address);
        };
        let path = file.image.path();
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let place = address - bias;
        // In a stripped file the nearest name may be another function's.
        let start = file.image.module().function(place).map_or(place, |function| function.start());
        let function = file.names.range(start..=place).next_back();
        let function = function.map_or_else(|| format!("{start:#x}"), |(_, name)| name.clone());
        (Place { file: name, function }, place)
    }
}

impl FindModule for Space {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        self.file(address).map(|(file, bias)| file.image.module_at(*bias))
    }

    fn recall(&self, address: u64, _trail: &mut Trail, known: &mut Known) -> bool {
        let rules = self.rules.borrow();
        let found = rules.get(&address);
        if let Some(found) = found {
            *known = *found;
        }
        found.is_some()
    }

    fn memorize(&self, address: u64, _generation: u32, known: &Known, _trail: &mut Trail) {
        self.rules.borrow_mut().insert(address, *known);
    }
}

/// One line of `/proc/pid/maps`.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    let writable = fields.next()?.contains('w');
    let name = fields.nth(3).unwrap_or_default().to_owned();
    Some(Mapping { range, writable, name })
}
