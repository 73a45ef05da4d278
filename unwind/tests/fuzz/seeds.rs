//! What is changed: entries and LSDAs cut from the binaries of the machine.
//!
//! ```text
//!   ELF file ─► .eh_frame ─► for each CIE: some of its FDEs ─► their LSDAs
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use gimli::{
    BaseAddresses, CallFrameInstruction, CieOrFde, EhFrame, LittleEndian, UnwindSection as _,
};
use object::read::ReadCache;
use object::{Object as _, ObjectSection as _};
use unspool_unwind::{Module, Section};

/// A CIE and an FDE of it: what follows their CIE pointers.
#[derive(Clone)]
pub struct Pair {
    pub cie: Vec<u8>,
    pub fde: Vec<u8>,
}

/// All that was cut.
#[derive(Default)]
pub struct Seeds {
    pub pairs: Vec<Pair>,
    /// LSDAs, perhaps with more behind them.
    pub areas: Vec<Vec<u8>>,
    /// The expressions in those entries.
    pub expressions: Vec<Vec<u8>>,
}

/// FDEs that are taken of a CIE, and CIEs and LSDAs of a file.
const FDES: usize = 24;
const CIES: usize = 48;
const AREAS: usize = 200;
/// The longest entry and LSDA that are taken, in bytes.
const ENTRY: usize = 600;
const AREA: usize = 1000;

impl Seeds {
    /// Cuts from the files that are always there, and from those that a compiler brings.
    pub fn new() -> Self {
        let mut seeds = Self::default();
        for path in files() {
            seeds.cut(&path);
        }
        let Self { pairs, areas, expressions } = &seeds;
        println!(
            "{} entries, {} areas, {} expressions",
            pairs.len(),
            areas.len(),
            expressions.len()
        );
        assert!(pairs.len() > 100 && areas.len() > 100 && expressions.len() > 2);
        seeds
    }

    fn cut(&mut self, path: &Path) {
        let cache = ReadCache::new(File::open(path).unwrap());
        let file = object::File::parse(&cache).unwrap();
        let section = |name: &str| {
            let section = file.section_by_name(name)?;
            Some((section.data().ok()?, section.address()))
        };
        let Some((frames, address)) = section(".eh_frame") else { return };
        let (areas, areas_at) = section(".gcc_except_table").unwrap_or((&[], 0));
        let module = Module::new(0..u64::MAX, Section { data: frames, address })
            .with_lsda(Section { data: areas, address: areas_at });
        let mut of_cie: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        module
            .for_each_entry(|entry| {
                let offset = entry.offset as usize;
                let cie = offset + 4 - word(frames, offset + 4);
                of_cie.entry(cie).or_default().push(offset);
            })
            .unwrap();
        let step = of_cie.len().div_ceil(CIES);
        for (cie, fdes) in of_cie.into_iter().step_by(step) {
            for &fde in fdes.iter().step_by(fdes.len().div_ceil(FDES)) {
                let pair = Pair { cie: body(frames, cie), fde: body(frames, fde) };
                if pair.fde.len() <= ENTRY {
                    self.pairs.push(pair);
                }
            }
        }
        self.cut_areas(&module);
        self.cut_expressions(frames);
    }

    /// Those of the whole file: there are few.
    fn cut_expressions(&mut self, frames: &[u8]) {
        let section = EhFrame::new(frames, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(0).set_text(0);
        let mut entries = section.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(fde) = entry else { continue };
            let Ok(fde) = fde.parse(EhFrame::cie_from_offset) else { continue };
            let mut program = fde.instructions(&section, &bases);
            while let Ok(Some(instruction)) = program.next() {
                use CallFrameInstruction::{DefCfaExpression, Expression, ValExpression};
                let (DefCfaExpression { expression }
                | Expression { expression, .. }
                | ValExpression { expression, .. }) = instruction
                else {
                    continue;
                };
                let code = expression.get(&section).unwrap().0.slice().to_vec();
                if !self.expressions.contains(&code) {
                    self.expressions.push(code);
                }
            }
        }
    }

    fn cut_areas(&mut self, module: &Module<'_>) {
        let mut with_area = Vec::new();
        module.for_each_entry(|entry| with_area.push(entry)).unwrap();
        let step = with_area.len().div_ceil(AREAS * 4);
        for entry in with_area.iter().step_by(step) {
            // By its offset, since the index is one entry.
            let one = [*entry];
            let module = module.with_index(unspool_unwind::FdeIndex::Sorted(&one));
            let Ok(function) = module.function(entry.start) else { continue };
            let Some(data) = function.lsda_data() else { continue };
            self.areas.push(data[..data.len().min(AREA)].to_vec());
        }
    }
}

/// What follows the length and the CIE pointer of an entry.
fn body(frames: &[u8], offset: usize) -> Vec<u8> {
    frames[offset + 8..offset + 4 + word(frames, offset)].to_vec()
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn files() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from);
    let libc = mapped.into_iter().find(|path| path.ends_with("libc.so.6"));
    let mut files = vec![std::env::current_exe().unwrap(), libc.expect("glibc is loaded")];
    let libstdcxx = output("cc", &["-print-file-name=libstdc++.so.6"]);
    files.extend(libstdcxx.and_then(|path| path.canonicalize().ok()));
    let rustc = std::env::var("RUSTC").unwrap_or("rustc".into());
    let sysroot = output(&rustc, &["--print", "sysroot"]).expect("the compiler is there");
    let libraries = std::fs::read_dir(sysroot.join("lib")).into_iter().flatten().flatten();
    files.extend(libraries.map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("librustc_driver-"))
    }));
    files
}

fn output(program: &str, arguments: &[&str]) -> Option<PathBuf> {
    let output = Command::new(program).args(arguments).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}
