//! An ELF file's unwind tables, as a module and as gimli's sections.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use gimli::{BaseAddresses, EhFrame, EndianSlice, LittleEndian};
use object::{Object as _, ObjectSection as _, ObjectSegment as _};
use unspool_unwind::{FdeIndex, FindModule, Module, Section};

/// The sections of an ELF file that unwinding needs, at their link-time addresses.
pub struct Image {
    path: PathBuf,
    text: (u64, u64),
    eh_frame: (Vec<u8>, u64),
    header: Option<(Vec<u8>, u64)>,
}

impl Image {
    /// Reads an executable or shared library.
    ///
    /// # Errors
    ///
    /// If it cannot be read or has no `.eh_frame`.
    pub fn open(path: &Path) -> Result<Self> {
        let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(path, &data)
    }

    /// Reads the contents of an executable or shared library, which came from `path`.
    ///
    /// # Errors
    ///
    /// If they cannot be read or have no `.eh_frame`.
    pub fn parse(path: &Path, data: &[u8]) -> Result<Self> {
        let file = object::File::parse(data)?;
        let section = |name: &str| -> Result<Option<(Vec<u8>, u64)>> {
            let Some(section) = file.section_by_name(name) else { return Ok(None) };
            Ok(Some((section.data()?.to_vec(), section.address())))
        };
        let Some(eh_frame) = section(".eh_frame")? else {
            bail!("{} has no .eh_frame", path.display());
        };
        let low = file.segments().map(|s| s.address()).min().unwrap_or(0);
        let high = file.segments().map(|s| s.address() + s.size()).max().unwrap_or(0);
        let header = section(".eh_frame_hdr")?;
        Ok(Self { path: path.to_owned(), text: (low, high), eh_frame, header })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As our unwinder sees it.
    pub fn module(&self) -> Module<'_> {
        self.module_at(0)
    }

    /// As our unwinder sees it where it is loaded so many bytes above its link-time addresses.
    pub fn module_at(&self, bias: u64) -> Module<'_> {
        let eh_frame = Section { data: &self.eh_frame.0, address: self.eh_frame.1 + bias };
        let module = Module::new(self.text.0 + bias..self.text.1 + bias, eh_frame);
        match &self.header {
            Some((data, address)) => {
                module.with_index(FdeIndex::Header(Section { data, address: *address + bias }))
            }
            None => module,
        }
    }

    /// The lowest link-time address.
    pub const fn start(&self) -> u64 {
        self.text.0
    }

    /// As gimli sees it.
    pub fn gimli(&self) -> (EhFrame<EndianSlice<'_, LittleEndian>>, BaseAddresses) {
        let bases = BaseAddresses::default().set_eh_frame(self.eh_frame.1).set_text(self.text.0);
        (EhFrame::new(&self.eh_frame.0, LittleEndian), bases)
    }
}

impl FindModule for Image {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        let module = self.module();
        module.contains(address).then_some(module)
    }
}
