//! Which functions of a linked library others can get to.
//!
//! ```text
//!   call f, jmp f ──────────────────────────► f
//!   lea f(%rip) ────────────────────────────► f, which is called by its address some time
//!   lea table(%rip) ─► relocations of table ─► what it points to
//! ```
//!
//! Whole functions count, whatever part of them is reached. A panic's way out is not followed: the
//! functions of core that a check calls when it fails, and all that prints.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionKind, SymbolKind, elf,
};

/// A function, by where it starts.
type Start = u64;

struct Function {
    end: u64,
    names: Vec<String>,
    /// Other functions, and data.
    refers_to: BTreeSet<u64>,
}

/// The functions of a library.
pub struct Library {
    functions: BTreeMap<Start, Function>,
    /// What words of its data point to, by where these are.
    pointers: BTreeMap<u64, u64>,
    /// All that functions refer to.
    referred: BTreeSet<u64>,
}

impl Library {
    /// Reads it; it must have its symbols.
    pub fn read(data: &[u8]) -> Result<Self> {
        let file = object::File::parse(data)?;
        let functions = functions(&file)?;
        let mut all = Self { functions, pointers: pointers(&file)?, referred: BTreeSet::new() };
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            all.decode(section.data()?, section.address());
        }
        Ok(all)
    }

    /// Notes what each function refers to.
    fn decode(&mut self, code: &[u8], address: u64) {
        let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let near = (0..instruction.op_count())
                .any(|operand| instruction.op_kind(operand) == OpKind::NearBranch64)
                .then(|| instruction.near_branch_target());
            let data =
                instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
            let Some(start) = self.function_at(instruction.ip()) else { continue };
            for to in near.into_iter().chain(data) {
                self.referred.insert(to);
                if let Some(function) = self.functions.get_mut(&start) {
                    function.refers_to.insert(to);
                }
            }
        }
    }

    fn function_at(&self, address: u64) -> Option<Start> {
        let (start, function) = self.functions.range(..=address).next_back()?;
        (address < function.end).then_some(*start)
    }

    /// The functions with such names.
    pub fn named(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<Start> {
        let has = |function: &Function| function.names.iter().any(|name| is_wanted(name));
        self.functions
            .iter()
            .filter(|(_, function)| has(function))
            .map(|(start, _)| *start)
            .collect()
    }

    /// All that these functions get to, they included.
    pub fn reachable(&self, from: BTreeSet<Start>) -> BTreeSet<Start> {
        let mut reached = BTreeSet::new();
        let mut left = Vec::from_iter(from);
        while let Some(start) = left.pop() {
            let Some(function) = self.functions.get(&start) else { continue };
            if function.names.iter().any(|name| is_of_panics(name)) || !reached.insert(start) {
                continue;
            }
            for &to in &function.refers_to {
                match self.function_at(to) {
                    Some(other) => left.push(other),
                    None => left.extend(self.pointed_to(to)),
                }
            }
        }
        reached
    }

    /// The functions that data at this address points to, up to the next data that something refers
    /// to.
    fn pointed_to(&self, address: u64) -> impl Iterator<Item = Start> {
        let next = self.referred.range(address + 1..).next().copied();
        let data = Range { start: address, end: next.unwrap_or(address + 8).max(address + 8) };
        self.pointers.range(data).filter_map(|(_, to)| self.function_at(*to))
    }

    /// Bytes of these functions.
    pub fn size(&self, functions: &BTreeSet<Start>) -> u64 {
        let size = |start: &Start| Some(self.functions.get(start)?.end - start);
        functions.iter().filter_map(size).sum()
    }
}

fn functions(file: &object::File<'_>) -> Result<BTreeMap<Start, Function>> {
    let mut functions = BTreeMap::<Start, Function>::new();
    let symbols = file.symbols().filter(|symbol| symbol.is_definition());
    for symbol in symbols.filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let start = symbol.address();
        let new = || Function { end: start, names: Vec::new(), refers_to: BTreeSet::new() };
        let function = functions.entry(start).or_insert_with(new);
        function.end = function.end.max(start + symbol.size());
        function.names.push(symbol.name()?.to_owned());
    }
    ensure!(!functions.is_empty(), "the library has no symbols");
    // Naked functions' symbols have no size: they go up to the next one.
    let starts: Vec<_> = functions.keys().copied().collect();
    for pair in starts.windows(2) {
        let function = functions.get_mut(&pair[0]).context("a function")?;
        if function.end == pair[0] {
            function.end = pair[1];
        }
    }
    Ok(functions)
}

/// What the dynamic linker puts into data (System V ABI, x86-64 §4.4).
fn pointers(file: &object::File<'_>) -> Result<BTreeMap<u64, u64>> {
    let mut pointers = BTreeMap::new();
    let symbols = file.dynamic_symbol_table();
    for (at, relocation) in file.dynamic_relocations().into_iter().flatten() {
        let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        let to = match (r_type, relocation.target()) {
            (elf::R_X86_64_RELATIVE, _) => relocation.addend() as u64,
            (
                elf::R_X86_64_64 | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT,
                RelocationTarget::Symbol(index),
            ) => {
                use object::ObjectSymbolTable as _;
                let table = symbols.as_ref().context("no dynamic symbols")?;
                table.symbol_by_index(index)?.address().wrapping_add(relocation.addend() as u64)
            }
            _ => continue,
        };
        pointers.insert(at, to);
    }
    Ok(pointers)
}

/// Whether a symbol (Rust's mangling, version 0) belongs to a check that fails, or prints.
fn is_of_panics(name: &str) -> bool {
    ["4core9panicking", "4core3fmt", "_failed", "_fail", "rust_begin_unwind"]
        .iter()
        .any(|part| name.contains(part))
}
