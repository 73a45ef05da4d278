//! Real programs, instruction by instruction: our caller's registers against what execution shows.
//!
//! `UNSPOOL_STEPS` says how many instructions all programs execute together, at most.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use unspool_host_tests::stepping::compare::{Program, Start, Tally, run};
use unspool_host_tests::stepping::space::Place;

/// Instructions of a short run, all programs together.
const SHORT: u64 = 1_000_000;
/// From so many on, a run has room for programs that take long to come to what they are here for.
const LONG: u64 = 10_000_000;
/// Instructions that even a program that ends by itself has.
const ENOUGH: u64 = 150_000;
/// Programs that may be missing on a machine leave at least so many.
const PROGRAMS: usize = 5;
/// The signal of our kernel's ticks, as a process.
const TICK: i32 = 34;

/// Where tables of others are wrong, and why. Ours have to be right.
const KNOWN: &[(&str, &str, &str)] = &[
    ("libgcc_s.so.1", "_Unwind_RaiseException", EH_RETURN),
    ("libgcc_s.so.1", "_Unwind_Resume", EH_RETURN),
    ("libgcc_s.so.1", "_Unwind_Resume_or_Rethrow", EH_RETURN),
    ("libgcc_s.so.1", "_Unwind_ForcedUnwind", EH_RETURN),
];
const EH_RETURN: &str = "GCC's __builtin_eh_return: the slots of the saved registers hold the \
    landing pad's already, and its table does not say by how much the stack pointer will move";

fn known(place: &Place) -> Option<&'static str> {
    let of =
        |(file, function, _): &&(&str, &str, _)| place.file == *file && place.function == *function;
    KNOWN.iter().find(of).map(|(_, _, reason)| *reason)
}

/// A program, how much more it executes than others, and functions that it must come by.
struct Run {
    program: Program,
    share: u64,
    visits: &'static [&'static str],
}

impl Run {
    fn new(name: &'static str, path: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let mut command = Command::new(path.as_ref());
        command.args(arguments).env_clear();
        let program =
            Program { name, command, start: Start::Entry, ticks: None, follow_threads: false };
        Self { program, share: 2, visits: &[] }
    }

    /// Our unwinder in libgcc's place.
    fn with_ours(mut self) -> Self {
        self.program.command.env("LD_LIBRARY_PATH", place_of_ours());
        self.visits = &["6x86_644land", "_Unwind_RaiseException"];
        self.bound()
    }

    /// Without lazy binding, which would take most of a short run.
    fn bound(mut self) -> Self {
        self.program.command.env("LD_BIND_NOW", "1");
        self
    }

    fn exists(&self) -> bool {
        Path::new(self.program.command.get_program()).exists()
    }
}

fn scratch() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("steps");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn compile(compiler: &[&str], name: &str) -> PathBuf {
    let program = scratch().join(name).with_extension("elf");
    let mut command = Command::new(compiler[0]);
    output(command.args(&compiler[1..]).arg(source(name)).arg("-o").arg(&program));
    program
}

/// Has cargo build something, and gives the last executable that this made.
fn cargo(arguments: &[&str]) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).args(["--message-format", "json"]).current_dir(root);
    let messages = output(&mut command);
    let (_, rest) = messages.rsplit_once("\"executable\":\"")?;
    Some(PathBuf::from(rest.split_once('"')?.0))
}

/// A folder where our library has libgcc's name.
fn place_of_ours() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("so");
    let name = target.to_string_lossy();
    cargo(&["build", "--release", "--package", "unspool-unwind-so", "--target-dir", &name]);
    let place = scratch().join("place");
    std::fs::create_dir_all(&place).unwrap();
    let link = place.join("libgcc_s.so.1");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(target.join("release/libunspool_unwind.so"), link).unwrap();
    }
    place
}

/// Programs that nobody here wrote, as far as they are installed.
fn foreign() -> Vec<Run> {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    let text = text.to_str().unwrap();
    let compiler = output(Command::new("g++").arg("-print-prog-name=cc1plus"));
    let cxx = source("exceptions.cpp");
    let perl = "for my $n (1..1e6) { my @w = sort map { s/(\\d)(\\d)/$2$1/r } 1..40; \
        eval { die { n => $n } }; $h{join ',', @w} .= sprintf '%x', $n; }";
    let python = "import re, json\nfor n in range(10**6):\n try: json.loads('[1, {\"a\": %d}' % n)\n \
        except ValueError as e: re.sub('[a-e]+', lambda m: m[0].upper(), str(e))\n";
    let sqlite = "with recursive t(n) as (select 1 union all select n+1 from t where n < 1000000) \
        select count(*), sum(n % 7) from t where n % 3 group by n % 11 order by 2;";
    let mut linker = Run::new("ls, and the dynamic linker", "/bin/ls", &["-lR", "/etc"]);
    linker.program.start = Start::Process;
    let all = vec![
        linker,
        Run::new("sort", "/usr/bin/sort", &["-r", "--parallel=1", text]),
        Run::new(
            "g++: cc1plus",
            compiler.trim(),
            &["-quiet", "-O2", cxx.to_str().unwrap(), "-o", "/dev/null"],
        ),
        Run::new("perl", "/usr/bin/perl", &["-e", perl]),
        Run::new("python3", "/usr/bin/python3", &["-S", "-E", "-c", python]),
        Run::new("sqlite3", "/usr/bin/sqlite3", &[":memory:", sqlite]),
    ];
    all.into_iter().filter(Run::exists).collect()
}

/// Programs that throw: with libgcc, and with ours.
fn throwing() -> Vec<Run> {
    let exceptions = compile(&["g++", "-O2"], "exceptions.cpp");
    let signals = compile(&["g++", "-O2", "-fnon-call-exceptions"], "signals.cpp");
    let rustc = std::env::var("RUSTC").unwrap_or("rustc".into());
    let panics = compile(&[&rustc, "-O", "--edition", "2024"], "panics.rs");
    vec![
        Run::new("C++ exceptions, libgcc", &exceptions, &[]),
        Run::new("C++ exceptions, ours", &exceptions, &[]).with_ours(),
        Run::new("C++ throwing in handlers, ours", &signals, &[]).with_ours(),
        Run::new("Rust std panics, libgcc", &panics, &[]),
        // A short run ends before the first landing.
        Run { visits: &[], ..Run::new("Rust std panics, ours", &panics, &[]).with_ours() },
    ]
}

/// Our kernel as a process.
fn kernel() -> Run {
    let suites = cargo(&["build", "--release", "--package", "unspool-suites"]).unwrap();
    let mut kernel = Run::new("our kernel", suites, &["-", "cpus=1", "panics", "switch"]);
    kernel.program.ticks = Some((TICK, 20_000));
    kernel.share = 6;
    kernel.visits = &[
        "_start",
        "7context6switch",
        "context10task_entry",
        "6x86_644land",
        "6x86_6410catch_body",
        "6signal8restorer",
        "_Unwind_Resume",
    ];
    kernel
}

/// The resolvers of TLS descriptors: of variables with static space, of blocks that are there, and of
/// blocks that have to be made, where the processor's state is saved by XSAVE and by FXSAVE.
///
/// One test each: libtest gives it a thread of its own, and only the first of them is followed.
fn descriptors() -> Vec<Run> {
    let tests = cargo(&["test", "--no-run", "--lib", "--package", "unspool-tls"]).unwrap();
    let all: [(_, _, &[_]); 4] = [
        (
            "TLS descriptors, static",
            "the_static_resolver_keeps_all_registers",
            &["14resolve_static"],
        ),
        (
            "TLS descriptors, blocks that are there",
            "a_block_made_beforehand_is_found",
            &["15resolve_dynamic"],
        ),
        (
            "TLS descriptors, blocks to make",
            "the_dynamic_resolver_keeps_all_registers_with_and_without_a_block_to_make",
            &["17resolve_with_mess", "10make_block"],
        ),
        (
            "TLS descriptors, blocks to make, without XSAVE",
            "without_xsave_the_registers_that_can_be_in_use_are_kept",
            &["19resolve_with_fxsave", "10make_block"],
        ),
    ];
    let runs = all.map(|(name, test, visits)| {
        let mut run = Run::new(name, &tests, &["--test-threads=1", test]);
        run.program.follow_threads = true;
        run.visits = visits;
        run.bound()
    });
    runs.into()
}

/// What code that asks for its variables by number calls, in a thread with an area of its own.
fn numbers() -> Run {
    let tests = cargo(&["test", "--no-run", "--test", "running", "--package", "unspool-tls"]);
    let test = "code_that_asks_by_number_gets_its_task_s_copy";
    let mut run = Run::new("thread-locals by number", tests.unwrap(), &["--test-threads=1", test]);
    run.program.follow_threads = true;
    run.visits = &["3abi14___tls_get_addr"];
    run.bound()
}

/// Runs them all, as many at once as there are CPUs.
fn run_all(runs: Vec<Run>, steps: u64) -> Vec<(Run, Tally)> {
    let shares: u64 = runs.iter().map(|run| run.share).sum();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (waiting, done) = (Mutex::new(VecDeque::from(runs)), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for cpu in 0..workers {
            let (waiting, done) = (&waiting, &done);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().unwrap().pop_front();
                    let Some(mut next) = next else { break };
                    let limit = steps * next.share / shares;
                    let tally = run(&mut next.program, limit, cpu).unwrap();
                    done.lock().unwrap().push((next, tally));
                }
            });
        }
    });
    done.into_inner().unwrap()
}

fn report(name: &str, tally: &Tally) {
    let without: u64 = tally.without.values().sum();
    let different: u64 = tally.differences.values().map(|found| found.count).sum();
    println!(
        "{name}: {} steps, {} distinct in {} functions, {:.0}/s: {} right ({} of them foretold), \
         {without} without a table, {different} different",
        tally.steps,
        tally.distinct,
        tally.functions.len(),
        tally.steps as f64 / tally.time.as_secs_f64(),
        tally.right(),
        tally.foretold,
    );
    for (file, count) in &tally.without {
        println!("    no table: {file}: {count}");
    }
    for (place, found) in &tally.differences {
        println!("    {place}: {} times: {}", found.count, known(place).unwrap_or("UNKNOWN"));
        for (address, example) in found.examples.iter().take(8) {
            println!("        {address:#x}: {example}");
        }
    }
}

#[test]
fn ours_is_right_at_every_instruction() {
    let steps = std::env::var("UNSPOOL_STEPS").map_or(SHORT, |n| n.parse().expect("a number"));
    let mut runs = vec![kernel()];
    if steps >= LONG {
        runs.extend(descriptors());
        runs.push(numbers());
    }
    runs.extend(throwing());
    runs.extend(foreign());
    let done = run_all(runs, steps);
    for (run, tally) in &done {
        report(run.program.name, tally);
    }
    let all: u64 = done.iter().map(|(_, tally)| tally.steps).sum();
    println!("{} programs, {all} instructions", done.len());
    for (run, tally) in &done {
        let name = run.program.name;
        let unknown = tally.differences.keys().find(|place| known(place).is_none());
        assert_eq!(unknown, None, "{name}");
        assert!(tally.right() * 100 > tally.steps * 99, "{name}: too few have tables");
        assert!(tally.steps > (steps / 100).min(ENOUGH), "{name}: ended too soon");
        for visit in run.visits {
            let visited = tally.functions.iter().any(|place| place.function.contains(visit));
            assert!(visited, "{name}: was never in {visit}");
        }
    }
    assert!(done.len() >= PROGRAMS, "too few programs");
    assert!(all > steps / 2, "too few instructions");
}

#[test]
fn a_wrong_table_is_found() {
    let program = compile(&["gcc", "-O2"], "wrong_table.c");
    let mut wrong = Run::new("wrong tables", program, &[]).program;
    let tally = run(&mut wrong, 200_000, 0).unwrap();
    report("wrong tables", &tally);
    let found = |function: &str| {
        let mut places = tally.differences.iter();
        places.find(|(place, _)| place.function == function).map(|(_, found)| found.count)
    };
    // The instructions at which the table is wrong.
    assert_eq!(found("wrong_cfa"), Some(2));
    assert_eq!(found("wrong_register"), Some(3));
    assert_eq!(tally.differences.len(), 2, "{:?}", tally.differences);
}
