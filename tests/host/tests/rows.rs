//! Every row of every FDE of real binaries: our caller's registers against gimli's.

use std::path::Path;

use gimli::{CieOrFde, EhFrame, UnwindContext, UnwindSection as _};
use unspool_host_tests::binaries;
use unspool_host_tests::image::Image;
use unspool_host_tests::oracle::{self, Everywhere};
use unspool_unwind::{Cursor, Pc, Rule, Step};

/// What comparing one file found.
#[derive(Default)]
struct Tally {
    rows: usize,
    in_rules: usize,
    /// FDEs of code that another FDE describes too; which one is right only the table that the
    /// linker sorted says.
    shadowed: usize,
}

/// Compares at the first and the last address of every row.
fn compare(image: &Image) -> Tally {
    let (section, bases) = image.gimli();
    let mut tally = Tally::default();
    let mut context = UnwindContext::new();
    let mut entries = section.entries(&bases);
    while let Some(entry) = entries.next().expect("a valid .eh_frame") {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset).expect("a valid FDE");
        // Linkers leave FDEs of discarded functions behind, at address 0 or without length.
        if fde.len() == 0 || fde.initial_address() == 0 {
            continue;
        }
        let found = image.module().function(fde.initial_address()).expect("in the table");
        if (found.start(), found.end()) != (fde.initial_address(), fde.end_address()) {
            tally.shadowed += 1;
            continue;
        }
        let mut table = fde.rows(&section, &bases, &mut context).expect("a valid CIE");
        while let Some(row) = table.next_row().expect("a valid program") {
            let (first, last) = (row.start_address(), row.end_address() - 1);
            // Some tools end a program with an advance to the end of the function.
            if row.start_address() == row.end_address() {
                continue;
            }
            for pc in [first, last] {
                let registers = oracle::registers(pc);
                let expected = oracle::caller(&section, row, &registers);
                let mut cursor = Cursor::new(registers, Pc::Exact(pc), Everywhere, image);
                let step = cursor.step();
                let ours = match step {
                    Ok(Step::Caller { cfa }) => Some((cfa, *cursor.registers())),
                    Ok(Step::End) => None,
                    Err(error) => panic!("{}: {pc:#x}: {error}", image.path().display()),
                };
                assert_eq!(ours, expected, "{}: {pc:#x}", image.path().display());
            }
            tally.rows += 1;
            let function = image.module().function(first).expect("found above");
            let row = function.row(first).expect("evaluated above");
            tally.in_rules += usize::from(Rule::from_row(&row).is_some());
        }
    }
    tally
}

/// Compares a file, of whose rows at least `share` percent must fit a rule.
fn check(path: &Path, at_least: f64) {
    let image = Image::open(path).unwrap();
    let tally = compare(&image);
    let share = tally.in_rules as f64 / tally.rows as f64 * 100.0;
    let (rows, shadowed) = (tally.rows, tally.shadowed);
    println!("{}: {rows} rows agree, {share:.2} % fit a rule", path.display());
    println!("{}: {shadowed} FDEs are shadowed by others", path.display());
    assert!(tally.rows > 1000, "{}: too few rows to mean anything", path.display());
    assert!(share > at_least, "{}: only {share:.2} % of the rows fit a rule", path.display());
}

/// What compilers make, hand-written parts of a C library included (percent).
const COMPILED: f64 = 99.5;

#[test]
fn libc_agrees_with_gimli() {
    check(&binaries::libc(), COMPILED);
}

#[test]
fn libstdcxx_agrees_with_gimli() {
    check(&binaries::libstdcxx(), COMPILED);
}

#[test]
fn a_rust_shared_library_agrees_with_gimli() {
    check(&binaries::rustc_driver(), COMPILED);
}

#[test]
fn our_own_kernel_agrees_with_gimli() {
    // Each of the 256 interrupt stubs has a few rows that restore all registers.
    check(&binaries::kernel(), 90.0);
}

#[test]
fn this_test_program_agrees_with_gimli() {
    check(&std::env::current_exe().unwrap(), COMPILED);
}
