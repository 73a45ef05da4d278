//! Accesses by each model, relaxed and not.

use std::error::Error;
use std::path::Path;

use unspool_tls::{
    __tls_get_addr, Area, Registry, Template, TlsIndex, dynamic_descriptor, static_descriptor,
};

use crate::arch::{self, Rows};
use crate::glibc::{self, Library, Program};
use crate::measure::{self, Clock, Table};

/// Rows in a round.
const TIMES: usize = 1_000;
const ROUNDS: usize = 1_000;
const OPERATIONS: usize = TIMES * arch::ROW;

/// Our relaxed rows, in the order in which `program.c` has its own.
const RELAXED: [(&str, Rows); 5] = [
    ("local_exec", arch::local_exec),
    ("initial_exec", arch::initial_exec_relaxed),
    ("general_dynamic", arch::general_dynamic_relaxed),
    ("local_dynamic", arch::local_dynamic_relaxed),
    ("descriptor", arch::descriptor_relaxed),
];

/// Compiles glibc's side.
pub fn compile(folder: &Path) -> Result<(), Box<dyn Error>> {
    glibc::compile(folder, "program", "-DSIZE=64 -DPROGRAM program.c accesses.S")?;
    glibc::compile(folder, "static.so", "-shared -DSIZE=64 -DSTATIC accesses.S")?;
    // Larger than what glibc keeps for modules that are opened later.
    glibc::compile(folder, "dynamic.so", "-shared -DSIZE=65536 -DDYNAMIC accesses.S")
}

/// Times rows. Reading the clock uses no thread-local variable.
fn rows(clock: &mut Clock, rows: Rows) {
    // SAFETY: nothing but reads of variables that the running thread has.
    clock.time(|| unsafe { rows(TIMES) });
}

/// Times rows on an area.
fn rows_on(area: &Area<'_>, clock: &mut Clock, which: Rows) {
    arch::on(area, &mut || rows(clock, which));
}

/// All rows of the table.
pub fn access(folder: &Path) -> Result<(), Box<dyn Error>> {
    measure::overhead();
    let registry = Registry::new(Template::EMPTY, 64)?;
    let fixed = registry.reserve(64, 8)?.publish(&[1; 32])?;
    assert_eq!(fixed.offset().get() + 8, arch::OFFSET, "where the rows expect it");
    let dynamic = registry.add_dynamic(&[1; 32], 64 << 10, 64)?;
    let area = registry.new_area(0)?;
    area.prepare(dynamic.module())?;
    let index = TlsIndex { module: dynamic.module().get(), offset: 8 };
    arch::INDEX.set(index);
    arch::TP_OFFSET.set(arch::OFFSET.into());
    let libraries = ["static.so", "dynamic.so"].map(|name| Library::open(&folder.join(name)));
    let [static_library, dynamic_library] = libraries;
    let (static_library, dynamic_library) = (static_library?, dynamic_library?);
    let mut table = Table::new(String::new());

    relaxed(&mut table, &area, &mut Program::start(&folder.join("program"))?)?;
    let mut compare = |name: &str, ours: Rows, theirs: Rows| {
        let ours = |clock: &mut Clock| rows_on(&area, clock, ours);
        table.compare(name, ROUNDS, OPERATIONS, ours, |clock| rows(clock, theirs));
    };
    let theirs = [c"initial_exec", c"general_dynamic", c"local_dynamic"]
        .map(|model| static_library.rows(model).or_else(|_| dynamic_library.rows(model)));
    let [initial_exec, general_dynamic, local_dynamic] = theirs;
    compare("access/initial_exec/by_slot", arch::initial_exec, initial_exec?);
    compare("access/general_dynamic/by_call", arch::general_dynamic, general_dynamic?);
    compare("access/local_dynamic/by_call", arch::local_dynamic, local_dynamic?);
    arch::DESCRIPTOR.set(static_descriptor(fixed.offset(), 8));
    let theirs = static_library.rows(c"descriptor")?;
    compare("access/descriptor/static", arch::descriptor, theirs);
    arch::DESCRIPTOR.set(dynamic_descriptor(arch::INDEX.as_ptr()));
    let theirs = dynamic_library.rows(c"descriptor")?;
    compare("access/descriptor/dynamic", arch::descriptor, theirs);
    function(&mut table, &area, &TlsIndex { module: dynamic_library.module()?, offset: 8 })
}

/// Instructions that the linker made, in a program, and those that the loader makes.
fn relaxed(
    table: &mut Table,
    area: &Area<'_>,
    program: &mut Program,
) -> Result<(), Box<dyn Error>> {
    let mut failed = None;
    for (model, (name, ours)) in (0..).zip(RELAXED) {
        table.compare(
            &format!("access/{name}/relaxed"),
            ROUNDS,
            OPERATIONS,
            |clock| rows_on(area, clock, ours),
            |clock| match program.time(model, TIMES as u64) {
                Ok(time) => clock.add(time.saturating_sub(measure::overhead())),
                Err(error) => failed = Some(error),
            },
        );
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// `__tls_get_addr` without the code around it.
fn function(
    table: &mut Table,
    area: &Area<'_>,
    their_index: &TlsIndex,
) -> Result<(), Box<dyn Error>> {
    let their_get = glibc::tls_get_addr()?;
    for (name, calls) in [("one_by_one", arch::calls as Calls), ("chained", arch::chained_calls)] {
        // SAFETY: each side's function gets an index of its side, with the FS base of its side.
        let time =
            |clock: &mut Clock, get, index| clock.time(|| unsafe { calls(TIMES, get, index) });
        table.compare(
            &format!("access/tls_get_addr/{name}"),
            ROUNDS,
            OPERATIONS,
            |clock| arch::on(area, &mut || time(clock, __tls_get_addr, arch::INDEX.as_ptr())),
            |clock| time(clock, their_get, their_index),
        );
    }
    Ok(())
}

type Calls = unsafe extern "C" fn(times: usize, get: arch::Get, index: *const TlsIndex);
