//! Made-up `.eh_frame` sections for unit tests: what compilers do not emit.

use crate::module::{Module, Section};

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
