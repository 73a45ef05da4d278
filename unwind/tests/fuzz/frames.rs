//! `.eh_frame`: every entry that can be read is read as gimli reads it, at every row's ends.
//!
//! ```text
//!   section ─┬─► gimli: FDEs ─► rows ─► caller's registers ─┐
//!            └─► ours: function ─► a step of a cursor ──────┴─ equal, or a difference of the list
//! ```

use gimli::{
    CallFrameInstruction, CfaRule, CieOrFde, EhFrame, FrameDescriptionEntry, UnwindContext,
    UnwindSection as _, UnwindTableRow,
};
use unspool_unwind::encoding::Pointer;
use unspool_unwind::{
    Cursor, FdeEntry, FdeIndex, Function, Module, Pc, Section, Step, UnwindError,
};

use crate::oracle::{self, Bytes, Caller, Everywhere, Only, SP};

/// Where sections lie, and the text.
pub const ADDRESS: u64 = 0x5000_0000;
pub const TEXT: u64 = 0x4000_0000;
/// Rows that are compared of a function.
const ROWS: usize = 200;

pub type Fde<'a> = FrameDescriptionEntry<Bytes<'a>>;

/// A section with a plain CIE and an FDE with this program.
pub fn section(program: &[u8]) -> Vec<u8> {
    // Version 1, "zR", factors 1 and −8, RA in 16, absptr; def_cfa rsp 8, offset RA 1.
    let cie = [1, b'z', b'R', 0, 1, 0x78, 16, 1, 0, 0x0c, 7, 8, 0x90, 1];
    let mut section = (cie.len() as u32 + 4).to_le_bytes().to_vec();
    section.extend([0; 4]);
    section.extend(cie);
    let back = section.len() as u32 + 4;
    section.extend((program.len() as u32 + 4 + 17).to_le_bytes());
    section.extend(back.to_le_bytes());
    section.extend(TEXT.to_le_bytes());
    section.extend(0x100u64.to_le_bytes());
    section.push(0);
    section.extend(program);
    section.extend([0; 4]);
    section
}

/// Compares everything in a section; how many rows there were to compare.
pub fn check(data: &[u8]) -> u64 {
    let section = Section { data, address: ADDRESS };
    let module = Module::new(TEXT..TEXT + 0x1000_0000, section).with_bases(TEXT, 0);
    let (theirs, bases) = oracle::gimli(section, TEXT);
    let _ = module.for_each_entry(|_| ());
    let mut compared = 0;
    let mut entries = theirs.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let offset = gimli::ReaderOffset::into_u64(partial.offset());
        // Looked up by its offset, whatever else the section has.
        let index = [FdeEntry { start: 0, offset }];
        let module = module.with_index(FdeIndex::Sorted(&index));
        // Version 4 has the sizes of addresses and segments, which libgcc reads and gimli does not.
        let plain = version(data, partial.cie_offset().0) != Some(4);
        match partial.parse(EhFrame::cie_from_offset) {
            _ if !plain => _ = module.function(TEXT).map(|function| function.row(TEXT)),
            Ok(fde) => compared += function(&module, &theirs, &bases, &fde),
            Err(error) => refused(&module, error),
        }
    }
    linear(&module, &theirs, &bases);
    compared
}

/// The version of a CIE, behind its length in one of the two forms and its id.
fn version(data: &[u8], cie: usize) -> Option<u8> {
    let long = data.get(cie..)?.starts_with(&[0xff; 4]);
    data.get(cie + if long { 16 } else { 8 }).copied()
}

/// What gimli refuses, and we need not: pointers in the form `DW_EH_PE_aligned`, the augmentation
/// "eh", letters that say twice what they say, and `L` with an encoding that says there is none.
fn refused(module: &Module<'_>, error: gimli::Error) {
    let address = TEXT;
    if let Ok(function) = module.function(address) {
        let tolerated = matches!(
            error,
            gimli::Error::UnsupportedPointerEncoding(_)
                | gimli::Error::UnknownAugmentation
                | gimli::Error::CannotParseOmitPointerEncoding
        );
        assert!(tolerated, "gimli has {error}, we have {function:x?}");
    }
}

/// Compares a function; how many rows it has.
fn function(
    module: &Module<'_>,
    theirs: &EhFrame<Bytes<'_>>,
    bases: &gimli::BaseAddresses,
    fde: &Fde<'_>,
) -> u64 {
    let (start, end) = (fde.initial_address(), fde.end_address());
    if start >= end {
        let none = module.function(start).err();
        assert!(none.is_some(), "a function without code covers nothing");
        return 0;
    }
    let ours = match module.function(start) {
        Ok(ours) => ours,
        Err(error) => {
            assert!(may_refuse(error, fde), "{error} ({error:?}), gimli: {fde:x?}");
            return 0;
        }
    };
    same_function(&ours, fde);
    let mut context = UnwindContext::new();
    let mut table = match fde.rows(theirs, bases, &mut context) {
        Ok(table) => table,
        Err(error) => {
            nothing_either(module, theirs, fde, start, error);
            return 0;
        }
    };
    let mut rows = 0;
    let mut next = start;
    for _ in 0..ROWS {
        match table.next_row() {
            Ok(None) => break,
            Ok(Some(row)) => {
                let (first, end) = (row.start_address(), row.end_address().min(end));
                if first < end {
                    same_row(module, theirs, row, first);
                    same_row(module, theirs, row, end - 1);
                    rows += 1;
                }
                next = end;
            }
            Err(error) => {
                if next < end {
                    nothing_either(module, theirs, fde, next, error);
                }
                break;
            }
        }
    }
    rows
}

/// What gimli reads and we refuse, in functions.
pub fn may_refuse(error: UnwindError, fde: &Fde<'_>) -> bool {
    let UnwindError::BadTable { source, .. } = error else { return false };
    let cie = fde.cie();
    match source {
        // Return addresses have column 16.
        gimli::Error::UnsupportedRegister(_) => cie.return_address_register().0 != 16,
        // Letters without `z`, which no tool writes: to gimli, `S` may stand alone.
        gimli::Error::UnknownAugmentation => cie.is_signal_trampoline(),
        // Version 4 has more in it than gimli reads.
        _ if cie.version() == 4 => true,
        // A function cannot start where a pointer leads: nobody could sort such a table.
        gimli::Error::UnsupportedPointerEncoding(encoding) => encoding.is_indirect(),
        _ => false,
    }
}

fn same_function(ours: &Function<'_>, fde: &Fde<'_>) {
    assert_eq!((ours.start(), ours.end()), (fde.initial_address(), fde.end_address()));
    assert_eq!(ours.is_signal_frame(), fde.is_signal_trampoline());
    let same = |ours: Option<Pointer>, theirs: Option<gimli::Pointer>| match (ours, theirs) {
        (Some(Pointer::Direct(ours)), Some(gimli::Pointer::Direct(theirs))) => ours == theirs,
        (Some(Pointer::Indirect(ours)), Some(gimli::Pointer::Indirect(theirs))) => ours == theirs,
        // To us (and libgcc) the number zero is no pointer whatever it is relative to; gimli
        // leaves that to its users.
        (None, _) => true,
        _ => false,
    };
    assert!(same(ours.lsda(), fde.lsda()), "{ours:x?}, {fde:x?}");
    assert!(same(ours.personality(), fde.personality()), "{ours:x?}, {fde:x?}");
}

/// What we make of a frame at `pc`.
fn step(module: &Module<'_>, pc: u64) -> Result<Caller, UnwindError> {
    let only = Only(*module);
    let mut cursor = Cursor::new(oracle::registers(pc), Pc::Exact(pc), Everywhere, &only);
    Ok(match cursor.step()? {
        Step::Caller { cfa } => Caller::At(cfa, *cursor.registers(), false),
        Step::End => Caller::None,
    })
}

fn same_row(
    module: &Module<'_>,
    section: &EhFrame<Bytes<'_>>,
    row: &UnwindTableRow<usize>,
    pc: u64,
) {
    let ours = step(module, pc);
    // Nobody has said what the CFA is relative to: to gimli that is rax.
    let nothing = gimli::Register(0);
    if matches!(row.cfa(), CfaRule::RegisterAndOffset { register, .. } if *register == nothing) {
        return;
    }
    let theirs = oracle::caller(section, row, &oracle::registers(pc));
    match (ours, theirs) {
        (Ok(Caller::At(cfa, ours, _)), Caller::At(their_cfa, theirs, _)) => {
            assert_eq!((cfa, ours), (their_cfa, theirs), "at {pc:#x}: {row:x?}");
        }
        (Ok(Caller::None), Caller::None) => {}
        // A return address of zero is an end as well.
        (Ok(Caller::None), Caller::At(_, theirs, _)) => assert_eq!(theirs.ip(), 0),
        (
            Err(UnwindError::CfaNotAbove { cfa, sp, .. }),
            Caller::At(theirs, ..) | Caller::Lost(theirs),
        ) => {
            assert_eq!((cfa, sp), (theirs, SP), "at {pc:#x}: {row:x?}");
            assert!(cfa <= sp);
        }
        (Err(_), Caller::Lost(_) | Caller::Nonsense) => {}
        (Err(error), _) => assert!(is_limit(error), "{error}, gimli at {pc:#x}: {row:x?}"),
        (ours, theirs) => panic!("at {pc:#x}: {ours:x?}, gimli {theirs:x?}: {row:x?}"),
    }
}

/// What gimli's rows can hold and ours cannot, or is not valid in CFI.
fn is_limit(error: UnwindError) -> bool {
    match error {
        // Offsets of more than 31 bits, expressions of more than 16, columns beyond RA as a base.
        UnwindError::Unsupported { .. } => true,
        UnwindError::BadTable { source, .. } => matches!(
            source,
            // Nine values on an expression's stack, and typed operations.
            gimli::Error::StackFull
                | gimli::Error::InvalidExpression(_)
                // A location whose number is zero: no pointer, whatever it is relative to.
                | gimli::Error::InvalidCfiSetLoc(0)
                // Locations and remembered states in the program of a CIE.
                | gimli::Error::CfiInstructionInInvalidContext
        ),
        _ => false,
    }
}

/// Where gimli has no row, we have none, but for what gimli cannot hold (more than four remembered
/// states), an instruction of GNU's that it does not have, and what we never run: that between a
/// remembered state and its restoring.
fn nothing_either(
    module: &Module<'_>,
    section: &EhFrame<Bytes<'_>>,
    fde: &Fde<'_>,
    pc: u64,
    error: gimli::Error,
) {
    let Ok(ours) = step(module, pc) else { return };
    let bases = gimli::BaseAddresses::default().set_eh_frame(ADDRESS).set_text(TEXT);
    let mut remembers = false;
    let programs = [fde.cie().instructions(section, &bases), fde.instructions(section, &bases)];
    for mut program in programs {
        while let Ok(Some(instruction)) = program.next() {
            remembers |= matches!(instruction, CallFrameInstruction::RememberState);
        }
    }
    let negative = gimli::Error::UnknownCallFrameInstruction(
        gimli::constants::DW_CFA_GNU_negative_offset_extended,
    );
    let tolerated = error == gimli::Error::StackFull || error == negative || remembers;
    assert!(tolerated, "gimli has {error} at {pc:#x}, we have {ours:x?}");
}

/// The first FDE that covers an address is found by reading from the start.
fn linear(module: &Module<'_>, theirs: &EhFrame<Bytes<'_>>, bases: &gimli::BaseAddresses) {
    for address in [TEXT, ADDRESS, ADDRESS + 8, 0x4fff_0000] {
        let ours = module.function(address);
        let theirs = theirs.fde_for_address(bases, address, EhFrame::cie_from_offset);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => same_function(&ours, &theirs),
            (Ok(ours), Err(gimli::Error::NoUnwindInfoForAddress)) => {
                panic!("{address:#x} is in {ours:x?}, gimli finds nothing");
            }
            (Err(UnwindError::NoFde(_)), Ok(theirs)) => {
                panic!("{address:#x} is in {theirs:x?}, we find nothing");
            }
            _ => {}
        }
    }
}
