//! Relocatable objects for unit tests, made section by section.

use object::elf;

/// A section to make.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub name: String,
    pub kind: elf::SectionType,
    pub flags: u64,
    pub data: Vec<u8>,
    /// Of one without data.
    pub size: u64,
    pub align: u64,
}

/// A section with contents that belongs in memory.
pub(crate) fn data(name: &str, data: &[u8]) -> Sample {
    let (kind, flags) = (elf::SHT_PROGBITS, elf::SHF_ALLOC.0);
    Sample { name: name.into(), kind, flags, data: data.into(), size: data.len() as u64, align: 1 }
}

/// A section of zeroes that belongs in memory.
pub(crate) fn zeroed(name: &str, size: u64) -> Sample {
    Sample { kind: elf::SHT_NOBITS, size, ..data(name, &[]) }
}

impl Sample {
    pub fn flags(self, flags: u64) -> Self {
        Self { flags: self.flags | flags, ..self }
    }

    pub fn align(self, align: u64) -> Self {
        Self { align, ..self }
    }
}

/// An object without symbols that has these sections, numbered from 1, and the table of their names.
pub(crate) fn object(sections: &[Sample]) -> Vec<u8> {
    const HEADER: usize = 64;
    let (mut file, mut names, mut headers) = (vec![0; HEADER], vec![0], vec![0; HEADER]);
    let mut header = |name: u32, sample: &Sample, offset: usize, size: u64| {
        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name.to_le_bytes());
        put(4, &sample.kind.0.to_le_bytes());
        put(8, &sample.flags.to_le_bytes());
        put(24, &(offset as u64).to_le_bytes());
        put(32, &size.to_le_bytes());
        put(48, &sample.align.to_le_bytes());
        headers.extend(header);
    };
    for sample in sections {
        header(names.len() as u32, sample, file.len(), sample.size);
        file.extend(&sample.data);
        names.extend(sample.name.bytes().chain([0]));
    }
    let table = Sample { kind: elf::SHT_STRTAB, flags: 0, ..data("", &[]) };
    header(0, &table, file.len(), names.len() as u64);
    file.extend(names);
    let at = file.len() as u64;
    file.extend(headers);
    let count = sections.len() as u16 + 2;
    let start = [0x7f, b'E', b'L', b'F', 2, 1, 1];
    file[..start.len()].copy_from_slice(&start);
    file[16..18].copy_from_slice(&elf::ET_REL.0.to_le_bytes());
    file[18..20].copy_from_slice(&elf::EM_X86_64.0.to_le_bytes());
    file[40..48].copy_from_slice(&at.to_le_bytes());
    file[58..60].copy_from_slice(&64_u16.to_le_bytes());
    file[60..62].copy_from_slice(&count.to_le_bytes());
    file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    file
}
