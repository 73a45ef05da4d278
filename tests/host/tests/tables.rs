//! Tables of frames of real binaries: at every byte of their code they say what DWARF says or ask
//! for it, and they know nearly all calls.

use std::path::Path;
use std::time::Instant;

use gimli::{CieOrFde, EhFrame, UnwindContext, UnwindSection as _};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl};
use unspool_host_tests::binaries;
use unspool_host_tests::image::Image;
use unspool_unwind::Rule;
use unspool_unwind::table::{self, FrameTable};

/// The rows that are in force, by the index of the module: start, end, rule and whether calls are
/// expected to be known.
struct Row {
    start: u64,
    end: u64,
    rule: Option<Rule>,
    calls: bool,
}

/// Where rows begin and end, gimli says; what they are, our DWARF, which is compared with gimli
/// elsewhere.
fn rows(image: &Image) -> Vec<Row> {
    let (section, bases) = image.gimli();
    let module = image.module();
    let mut rows = Vec::new();
    let mut context = UnwindContext::new();
    let mut entries = section.entries(&bases);
    while let Some(entry) = entries.next().expect("a valid .eh_frame") {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset).expect("a valid FDE");
        let Ok(function) = module.function(fde.initial_address()) else { continue };
        if (function.start(), function.end()) != (fde.initial_address(), fde.end_address()) {
            continue;
        }
        let mut table = fde.rows(&section, &bases, &mut context).expect("a valid CIE");
        while let Some(row) = table.next_row().expect("a valid program") {
            let (start, end) = (row.start_address(), row.end_address());
            if start == 0 || start == end {
                continue;
            }
            let rule = Rule::from_row(&function.row(start).expect("it has been read"));
            rows.push(Row { start, end, rule, calls: !function.is_signal_frame() });
        }
    }
    rows.sort_by_key(|row| row.start);
    rows
}

/// At every byte of the code the table has the rule of the row there, or none.
fn compare(image: &Image, table: &FrameTable<'_>, rows: &[Row]) -> usize {
    let eh_frame = image.module().eh_frame.address;
    let mut answered = 0;
    for part in image.code() {
        let end = part.address + part.data.len() as u64;
        let mut next = rows.partition_point(|row| row.end <= part.address);
        for address in part.address..end {
            while rows.get(next).is_some_and(|row| row.end <= address) {
                next += 1;
            }
            let Some(rule) = table.rule(address, eh_frame) else { continue };
            answered += 1;
            let row = rows.get(next).filter(|row| row.start <= address);
            let expected = row.and_then(|row| row.rule);
            assert_eq!(Some(rule), expected, "{}: {address:#x}", image.path().display());
        }
    }
    answered
}

/// Counts calls in rows that fit a rule, and those of them of which the table has none.
fn calls(image: &Image, table: &FrameTable<'_>, rows: &[Row]) -> (usize, usize) {
    let eh_frame = image.module().eh_frame.address;
    let (mut calls, mut asked) = (0, 0);
    let code = image.code();
    for row in rows.iter().filter(|row| row.calls && row.rule.is_some()) {
        let Some(bytes) = code.iter().find_map(|part| part.rest_at(row.start)) else { continue };
        let bytes = &bytes[..bytes.len().min((row.end - row.start) as usize)];
        for instruction in Decoder::with_ip(64, bytes, row.start, DecoderOptions::NONE) {
            let flow = instruction.flow_control();
            let call = matches!(flow, FlowControl::Call | FlowControl::IndirectCall);
            // Calls into the kernel leave no frame.
            if call && !matches!(instruction.code(), Code::Syscall | Code::Sysenter | Code::Vmcall)
            {
                calls += 1;
                let rule = table.rule(instruction.next_ip() - 1, eh_frame);
                asked += usize::from(rule.is_none());
            }
        }
    }
    (calls, asked)
}

/// What a table may take (percent of `.eh_frame`).
const SIZE: f64 = 20.0;

fn check(path: &Path) {
    let image = Image::open(path).unwrap();
    let module = image.module();
    let begin = Instant::now();
    let bytes = table::build(&module, &image.code()).unwrap();
    let time = begin.elapsed();
    let table = FrameTable::parse(&bytes, &module.eh_frame).unwrap();
    let size = bytes.len() as f64 / module.eh_frame.data.len() as f64 * 100.0;
    let (name, rules) = (path.display(), table.rules());
    println!("{name}: {} bytes, {size:.1} % of .eh_frame, {rules} rules; {time:?}", bytes.len());
    assert!(size <= SIZE, "{name}: {size:.1} % of .eh_frame");

    let rows = rows(&image);
    assert!(rows.len() > 1000, "{name}: too few rows to mean anything");
    let answered = compare(&image, &table, &rows);
    let (calls, asked) = calls(&image, &table, &rows);
    println!("{name}: {} rows; {answered} bytes of code, {calls} calls agree", rows.len());
    assert!(calls > 1000, "{name}: too few calls to mean anything");
    assert_eq!(asked, 0, "{name}: calls that the table does not know");
}

#[test]
fn the_table_of_libc_agrees_with_dwarf() {
    check(&binaries::libc());
}

#[test]
fn the_table_of_libstdcxx_agrees_with_dwarf() {
    check(&binaries::libstdcxx());
}

#[test]
fn the_table_of_libstd_agrees_with_dwarf() {
    check(&binaries::libstd());
}

#[test]
fn the_table_of_a_large_library_agrees_with_dwarf() {
    check(&binaries::rustc_driver());
}

#[test]
fn the_table_of_our_own_kernel_agrees_with_dwarf() {
    check(&binaries::kernel());
}

#[test]
fn the_table_of_this_test_program_agrees_with_dwarf() {
    check(&std::env::current_exe().unwrap());
}
