//! Changes single fields of an object, as broken tools and broken disks do.

/// Offsets of fields in a section header (gABI, `Elf64_Shdr`).
pub mod header {
    pub const TYPE: usize = 4;
    pub const FLAGS: usize = 8;
    pub const OFFSET: usize = 24;
    pub const SIZE: usize = 32;
    pub const LINK: usize = 40;
    pub const INFO: usize = 44;
    pub const ALIGN: usize = 48;
}

/// Size of an `Elf64_Shdr`.
const HEADER: usize = 64;
/// Offset of `e_shoff` in the ELF header.
const SHOFF: usize = 40;
/// Offset of `e_shstrndx` in the ELF header.
pub const SHSTRNDX: usize = 62;

/// The bytes of an object, to be changed.
#[derive(Clone)]
pub struct Patch(pub Vec<u8>);

impl Patch {
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap())
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    /// The same bytes with `value` at `at`.
    pub fn with<const N: usize>(&self, at: usize, value: [u8; N]) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes[at..at + N].copy_from_slice(&value);
        bytes
    }

    /// Where the section header table starts.
    pub fn headers(&self) -> usize {
        self.u64(SHOFF) as usize
    }

    /// Where the header of the section with this number starts.
    pub fn header(&self, index: usize) -> usize {
        self.headers() + index * HEADER
    }

    pub fn count(&self) -> usize {
        self.u16(60).into()
    }

    pub fn name(&self, index: usize) -> &str {
        let names = self.u64(self.header(self.u16(SHSTRNDX).into()) + header::OFFSET);
        let start = names as usize + self.u32(self.header(index)) as usize;
        let end = start + self.0[start..].iter().position(|&byte| byte == 0).unwrap();
        std::str::from_utf8(&self.0[start..end]).unwrap()
    }

    /// The number of the section with this name.
    pub fn section(&self, name: &str) -> usize {
        (0..self.count()).find(|&index| self.name(index) == name).expect(name)
    }

    /// Where the field of the section with this name lies in the file.
    pub fn field(&self, section: &str, field: usize) -> usize {
        self.header(self.section(section)) + field
    }

    /// Where the contents of the section with this name lie in the file.
    pub fn contents(&self, section: &str) -> std::ops::Range<usize> {
        let start = self.u64(self.field(section, header::OFFSET)) as usize;
        start..start + self.u64(self.field(section, header::SIZE)) as usize
    }
}
