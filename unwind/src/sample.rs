//! Made-up `.eh_frame` sections for unit tests, what compilers do not emit; and stacks.

use crate::module::{Module, Section};
use crate::stack::{Climb, ReadStack, StackBounds, WordsBelow};

/// Where the made-up function starts; it has 0x100 bytes.
pub(crate) const START: u64 = 0x40_1000;
/// Where the made-up section lies.
pub(crate) const SECTION: u64 = 0x50_0000;

/// `def_cfa rsp, 8; offset ra, 1`: how every CIE for x86-64 begins.
pub(crate) const CALL_FRAME: &[u8] = &[0x0c, 7, 8, 0x80 | 16, 1];

/// One entry: length, id, body, padding to eight bytes.
fn entry(id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend(body);
    while !(bytes.len() + 4).is_multiple_of(8) {
        bytes.push(0);
    }
    let mut whole = (bytes.len() as u32).to_le_bytes().to_vec();
    whole.extend(bytes);
    whole
}

/// A section with one CIE and one FDE with absolute addresses.
pub(crate) fn section(version: u8, initial: &[u8], program: &[u8]) -> Vec<u8> {
    let mut cie = vec![version];
    cie.extend(b"zR\0");
    if version == 4 {
        cie.extend([8, 0]);
    }
    // Factors 1 and −8; return address in column 16; one byte of augmentation: absptr.
    cie.extend([1, 0x78, 16, 1, 0]);
    cie.extend(initial);
    let mut bytes = entry(0, &cie);
    let mut fde = START.to_le_bytes().to_vec();
    fde.extend(0x100u64.to_le_bytes());
    fde.push(0);
    fde.extend(program);
    let back = bytes.len() as u32 + 4;
    bytes.extend(entry(back, &fde));
    bytes.extend([0; 4]);
    bytes
}

/// The module around it.
pub(crate) fn module(section: &[u8]) -> Module<'_> {
    Module::new(START..START + 0x1000, Section { data: section, address: SECTION })
}

/// Words as a stack.
#[derive(Clone, Copy)]
pub struct Words<'a>(pub &'a [u64]);

impl Words<'_> {
    fn bounds(&self) -> StackBounds {
        let low = self.0.as_ptr().expose_provenance() as u64;
        // SAFETY: they are borrowed for longer than this value is used.
        unsafe { StackBounds::new(low, low + size_of_val(self.0) as u64) }
    }
}

impl ReadStack for Words<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        self.bounds().read(address)
    }

    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        self.bounds().words_below(end, count)
    }

    fn climb(&self, sp: u64) -> Option<Climb> {
        self.bounds().climb(sp)
    }
}
