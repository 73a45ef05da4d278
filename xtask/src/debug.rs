//! What a kernel gets of its own file to say lines in traces: the debug information, and the build ID.
//!
//! ```text
//!   │ ELF header │ build ID │ .debug_info │ .debug_line │ … │ names │ section headers │
//! ```
//!
//! As `objcopy --only-keep-debug` makes it, without the headers of what it leaves out; nothing is
//! compressed, so that it can be read in place.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use object::elf::{SHT_NOTE, SHT_NULL, SHT_PROGBITS, SHT_STRTAB};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSection as _};

/// The section with the build ID.
const BUILD_ID: &str = ".note.gnu.build-id";
/// Bytes of the ELF header, and of a section's.
const HEADER: usize = 64;
/// Where sections begin: strings and notes ask for four bytes at most.
const ALIGN: usize = 8;

/// The file with the debug information of `elf` alone.
///
/// # Errors
/// It is no ELF64 file, or a section of it cannot be read.
pub fn only(elf: &[u8]) -> Result<Vec<u8>> {
    let file = ElfFile64::<LittleEndian>::parse(elf)?;
    let (mut out, mut headers, mut names) = (elf[..HEADER].to_vec(), Headers::default(), vec![0]);
    headers.add(0, SHT_NULL.0, 0, 0);
    for section in file.sections() {
        let name = section.name()?;
        if name != BUILD_ID && !name.starts_with(".debug_") {
            continue;
        }
        let data = section.uncompressed_data().with_context(|| name.to_owned())?;
        let kind = if name == BUILD_ID { SHT_NOTE } else { SHT_PROGBITS };
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        headers.add(names.len(), kind.0, out.len(), data.len());
        out.extend_from_slice(&data);
        names.extend(name.bytes().chain([0]));
    }
    headers.add(names.len(), SHT_STRTAB.0, out.len(), names.len() + 1 + ".shstrtab".len());
    out.extend(names.into_iter().chain(*b".shstrtab\0"));
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    // ELF gABI, ELF header: e_phoff, e_shoff; e_phnum; e_shnum and e_shstrndx.
    let at = out.len() as u64;
    out[32..48].copy_from_slice(&[0_u64.to_le_bytes(), at.to_le_bytes()].concat());
    out[56..58].copy_from_slice(&0_u16.to_le_bytes());
    let count = u16::try_from(headers.count).context("too many sections")?;
    out[60..64].copy_from_slice(&[count.to_le_bytes(), (count - 1).to_le_bytes()].concat());
    out.extend(headers.bytes);
    Ok(out)
}

/// Section headers, one after the other.
#[derive(Default)]
struct Headers {
    bytes: Vec<u8>,
    count: usize,
}

impl Headers {
    /// A section (`Elf64_Shdr`) without flags and address.
    fn add(&mut self, name: usize, kind: u32, offset: usize, size: usize) {
        self.bytes.extend((name as u32).to_le_bytes());
        self.bytes.extend(kind.to_le_bytes());
        // sh_flags sh_addr sh_offset sh_size; sh_link and sh_info; sh_addralign sh_entsize
        for word in [0, 0, offset as u64, size as u64, 0, 1, 0] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_information_and_build_id_are_kept_and_nothing_else() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let kept = only(&program).unwrap();
        let whole = ElfFile64::<LittleEndian>::parse(&*program).unwrap();
        let kept = ElfFile64::<LittleEndian>::parse(&*kept).unwrap();
        assert_eq!(whole.build_id().unwrap(), kept.build_id().unwrap());
        let mut found = 0;
        for section in whole.sections() {
            let name = section.name().unwrap();
            let copy = kept.section_by_name(name);
            if name.starts_with(".debug_") {
                assert_eq!(section.uncompressed_data(), copy.unwrap().data().map(Into::into));
                found += 1;
            } else {
                assert_eq!(copy.is_some(), [BUILD_ID, ".shstrtab"].contains(&name), "{name}");
            }
        }
        assert!(found > 3 && kept.segments().count() == 0);
    }
}
