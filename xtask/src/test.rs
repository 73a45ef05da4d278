//! `cargo xtask test`: every test there is, in three places, in one sum.
//!
//! ```text
//! host      cargo test, package by package          unspool-tls, …, xtask
//! memcheck  the same under valgrind, as far as it can  unspool-tls, …
//! process   unspool-suites, unspool-demo            the ELF file as a Linux process
//! QEMU      the same files                          1 CPU, and 4
//! cache     all of these that unwind                 with the cache off, tiny, or wrapping
//! so-demo   cargo xtask so-demo                   programs of g++ and rustc, our library
//! load      cargo xtask load FILE…              output, exit codes, errors
//! deaths    unspool-suites die:NAME               must end with a reason
//! said      unspool-suites said:NAME               as std says it, word by word
//! decode    unspool-suites, its traces               addresses must become names and lines
//! lines     unspool-suites, with its debug information  must say what addr2line says
//! profile   cargo xtask profile                    files, and in them what is busy
//! boot      unspool-suites, linked without a symbol must say so and exit
//! wasmtime  examples/wasmtime                     to its last line, with either version
//! wasm-spec the same                              the specification's tests
//! ```
//!
//! What cannot run has failed. The last line is the sum, whatever happens before.

mod boot;
mod caches;
mod deaths;
mod decodes;
mod lines;
mod loads;
mod plan;
mod profiles;
mod said;
mod vendored;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;

use self::plan::{Kind, Spot, Suite};
use self::said::{OnStd, Said};
use crate::build::{self, Image, Program};
use crate::command;
use crate::libtest;
use crate::packages::{DEMO, HostTests, STABLE_KERNEL, STABLE_UNWIND, STD_USERS, SUITES};
use crate::place::{Place, Ran};
use crate::profile;
use crate::progress::{Step, show};
use crate::report::{Report, Tally};
use crate::setup::{self, QEMU, VALGRIND};
use crate::so_demo;
use crate::stable;
use crate::suite;
use crate::wasm::{self, Load, Wasmtime};
use crate::workspace::Workspace;

// Limits end what hangs, and nothing else: a machine may be slow, busy, or have its processors taken away
// for seconds again and again.

/// Building and running one package's host tests.
const HOST_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The suites, in an emulated machine: a minute or two.
const SUITES_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The demo takes a second.
const DEMO_LIMIT: Duration = Duration::from_secs(5 * 60);
/// A kernel that refuses to boot, or that dies, does so at once.
const BOOT_LIMIT: Duration = Duration::from_secs(3 * 60);

/// What to test.
#[derive(Args)]
pub struct Options {
    /// Part of a suite's name (host, unspool-tls, process, QEMU, demo, boot) to run just those; or
    /// else part of test names, to run just those tests
    filter: Option<String>,
    /// Do not install QEMU when it is missing; its suites fail then
    #[arg(long)]
    no_install: bool,
}

/// Does it.
///
/// # Errors
/// None: what goes wrong is a failed test.
pub fn test(options: &Options) -> Result<ExitCode> {
    let (plan, filter) = plan::select(plan::all(), options.filter.as_deref());
    let mut report = Report::default();
    match Workspace::load() {
        Ok(workspace) => {
            let bench = Bench {
                workspace,
                filter,
                no_install: options.no_install,
                qemu: OnceCell::new(),
                images: RefCell::new(BTreeMap::new()),
            };
            for suite in &plan {
                bench.add(suite, &mut report);
            }
        }
        Err(error) => {
            report.add("workspace", Tally::failure(format!("{error:#}")), Duration::ZERO);
        }
    }
    if report.passed() + report.failed() == 0 {
        let filter = options.filter.as_deref().unwrap_or_default();
        let complaint = format!("neither a suite nor a test has `{filter}` in its name");
        report.add("filter", Tally::failure(complaint), Duration::ZERO);
    }
    show(&report.text());
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the suites share.
struct Bench<'a> {
    workspace: Workspace,
    /// Part of test names.
    filter: Option<&'a str>,
    no_install: bool,
    /// The emulator, or why there is none.
    qemu: OnceCell<Result<PathBuf, String>>,
    /// Kernels by name; `None` if it could not be built (said once, when it was tried).
    images: RefCell<BTreeMap<&'a str, Option<Image>>>,
}

impl<'a> Bench<'a> {
    fn add(&self, suite: &Suite<'a>, report: &mut Report) {
        let started = Instant::now();
        let tally = match suite.kind {
            Kind::Host(tests) => self.host(&suite.name, tests, |_| ()),
            Kind::Memcheck(tests, skipped) => self.memcheck(&suite.name, tests, skipped),
            Kind::Cache(variant) => Ok(self.cache(&suite.name, variant)),
            Kind::SoDemo => self.so_demo(&suite.name),
            Kind::Loads(spot) => self.loads(&suite.name, spot),
            Kind::Suites(spot) => self.suites(&suite.name, SUITES, spot),
            Kind::StdUsers(spot) => self.suites(&suite.name, STD_USERS, spot),
            Kind::Deaths(spot) => self.deaths(&suite.name, spot),
            Kind::Said(spot) => self.said(&suite.name, spot),
            Kind::Decodes(spot) => self.decodes(&suite.name, spot),
            Kind::Lines(spot) => self.lines(&suite.name, spot),
            Kind::Profile(spot, cpus) => self.profile(&suite.name, spot, cpus),
            Kind::Demo(spot) => self.demo(&suite.name, spot),
            Kind::Stable(spot) => self.stable(&suite.name, spot),
            Kind::StableUnwind(spot) => self.stable_unwind(&suite.name, spot),
            Kind::Wasmtime(spot, version) => self.wasmtime(&suite.name, spot, version),
            Kind::WasmSpec(spot, tasks) => self.specification(&suite.name, spot, tasks),
            Kind::Boot(variant, spot) => self.boot(&suite.name, variant, spot),
        };
        let tally = tally.unwrap_or_else(|error| Tally::failure(format!("{error:#}")));
        report.add(&suite.name, tally, started.elapsed());
    }

    /// `prepare` has the last word on the command.
    fn host(
        &self,
        name: &str,
        tests: &HostTests,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Tally> {
        let mut step = Step::start(name);
        let mut cargo = if tests.stable {
            stable::cargo(&self.workspace, &mut step)?
        } else {
            self.workspace.cargo()
        };
        cargo.args(["test", "--no-fail-fast", "-p", tests.package]).args(tests.arguments);
        cargo.arg("--").args(self.filter);
        prepare(&mut cargo);
        let finished = command::run(cargo, HOST_LIMIT, &mut |bytes| step.feed(bytes))?;
        self.keep(name, &finished.output);
        let tally = libtest::tally(&finished);
        step.end(&tally.to_string());
        Ok(tally)
    }

    /// An access out of bounds, to freed or to uninitialised memory, or a leak, fails the test
    /// program that it happens in.
    fn memcheck(&self, name: &str, tests: &HostTests, skipped: &[&str]) -> Result<Tally> {
        let valgrind = setup::find_or_install(&VALGRIND, !self.no_install)?;
        self.host(name, tests, |cargo| {
            let leaks =
                "--leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite";
            // Loaded code replaces other code at the same address.
            let runner = format!(
                "{} --quiet --error-exitcode=97 --smc-check=all-non-file {leaks}",
                valgrind.display()
            );
            cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
            cargo.args(skipped.iter().flat_map(|name| ["--skip", name]));
        })
    }

    fn suites(&self, name: &str, package: &'a str, spot: Spot) -> Result<Tally> {
        let program = self.release(package);
        let image = self.image(package, || build::build(&self.workspace, &program))?;
        let words: Vec<_> = self.filter.map(str::to_owned).into_iter().collect();
        self.run(name, &image, spot, &words, SUITES_LIMIT, |ran| {
            suite::suites(ran, self.filter.is_some())
        })
    }

    fn deaths(&self, name: &str, spot: Spot) -> Result<Tally> {
        let image = self.image(SUITES, || build::build(&self.workspace, &self.release(SUITES)))?;
        let place = self.place(spot)?;
        let mut step = Step::start(name);
        let (mut tally, mut output) = (Tally::default(), String::new());
        let of_many = (spot == Spot::Qemu(4)).then_some(&deaths::OF_MANY);
        let of_ports = (spot != Spot::Process).then_some(&deaths::OF_PORTS);
        for death in deaths::DEATHS.iter().chain(of_many).chain(of_ports) {
            let ran =
                place.run(&image, &[death.word()], BOOT_LIMIT, &mut |bytes| step.feed(bytes))?;
            output.push_str(&ran.output);
            match deaths::judge(death, &ran) {
                None => tally.passed += 1,
                Some(complaint) => tally.fail(complaint),
            }
        }
        let (word, refusal) = deaths::BAD_WORD;
        let ran =
            place.run(&image, &[word.to_owned()], BOOT_LIMIT, &mut |bytes| step.feed(bytes))?;
        output.push_str(&ran.output);
        tally.add(suite::refusal(&ran, refusal));
        if spot == Spot::Process {
            let ran = deaths::run_blocked(&image, BOOT_LIMIT, &mut |bytes| step.feed(bytes))?;
            output.push_str(&ran.output);
            match deaths::judge(&deaths::BLOCKED, &ran) {
                None => tally.passed += 1,
                Some(complaint) => tally.fail(complaint),
            }
        }
        if spot == Spot::Qemu(1) {
            let (death, order) = (&deaths::BY_MONITOR, &deaths::MACHINE_CHECK);
            let words = [death.word()];
            let ran = place
                .run_with_order(&image, &words, BOOT_LIMIT, order, &mut |bytes| step.feed(bytes))?;
            output.push_str(&ran.output);
            match deaths::judge(death, &ran) {
                None => tally.passed += 1,
                Some(complaint) => tally.fail(complaint),
            }
        }
        self.keep(name, &output);
        step.end(&tally.to_string());
        Ok(tally)
    }

    /// Each scenario in each style; in QEMU, what ends the program in one style.
    fn said(&self, name: &str, spot: Spot) -> Result<Tally> {
        let image = self.image(SUITES, || build::build(&self.workspace, &self.release(SUITES)))?;
        let place = self.place(spot)?;
        let std = OnStd::compile(&self.workspace.root, &self.workspace.output())?;
        let mut step = Step::start(name);
        let (mut tally, mut output) = (Tally::default(), String::new());
        for scenario in std.scenarios()? {
            for (index, (backtrace, style)) in said::STYLES.into_iter().enumerate() {
                if index > 0 && scenario != said::ALL && spot != Spot::Process {
                    break;
                }
                let word = format!("said:{scenario}:{style}");
                let mut errors = said::Errors::default();
                let outcome = place.run_apart(
                    &image,
                    std::slice::from_ref(&word),
                    BOOT_LIMIT,
                    &mut |from, it| {
                        step.feed(it);
                        errors.add(from, it);
                    },
                )?;
                let ours = Said { text: errors.text(), outcome };
                output.push_str(&ours.text);
                match said::judge(&word, &std.run(&scenario, backtrace)?, &ours) {
                    None => tally.passed += 1,
                    Some(complaint) => tally.fail(complaint),
                }
            }
        }
        self.keep(name, &output);
        step.end(&tally.to_string());
        Ok(tally)
    }

    /// Each program, each way.
    fn so_demo(&self, name: &str) -> Result<Tally> {
        let mut output = String::new();
        let passed = so_demo::demo(&self.workspace, &mut |line| {
            output.push_str(line);
            output.push('\n');
        })?;
        self.keep(name, &output);
        Ok(Tally { passed, ..Tally::default() })
    }

    fn decodes(&self, name: &str, spot: Spot) -> Result<Tally> {
        let image = self.image(SUITES, || build::build(&self.workspace, &self.release(SUITES)))?;
        let place = self.place(spot)?;
        let object = decodes::object(&self.workspace.output());
        let mut step = Step::start(name);
        let (mut tally, mut output) = (Tally::default(), String::new());
        for case in decodes::CASES {
            let elf = if case.named { &image.elf } else { &image.plain };
            let started = Image { elf: elf.clone(), ..image.clone() };
            let words = [case.word.to_owned()];
            let ran = place.run(&started, &words, BOOT_LIMIT, &mut |bytes| step.feed(bytes))?;
            output.push_str(&ran.output);
            match decodes::judge(case, &ran.output, elf, &object, &self.workspace.root)? {
                None => tally.passed += 1,
                Some(complaint) => tally.fail(complaint),
            }
        }
        self.keep(name, &output);
        step.end(&tally.to_string());
        Ok(tally)
    }

    /// The tests of lines, and what `addr2line` says.
    fn lines(&self, name: &str, spot: Spot) -> Result<Tally> {
        let image = self.image(SUITES, || build::build(&self.workspace, &self.release(SUITES)))?;
        let image = image.with_lines();
        let words = ["lines::".to_owned()];
        let mut tally =
            self.run(name, &image, spot, &words, SUITES_LIMIT, |ran| suite::suites(ran, false))?;
        let words = ["show:lines".to_owned()];
        let name = format!("{name}, addr2line");
        tally.add(self.run(&name, &image, spot, &words, BOOT_LIMIT, |ran| {
            let complaint = lines::judge(ran, &image.plain, &image.modules);
            verdict(complaint.unwrap_or_else(|error| Some(format!("{error:#}"))))
        })?);
        // The process and the machine do not differ in whom they believe.
        if spot == Spot::Process {
            let name = format!("{name}, another build");
            let other = Image { modules: lines::of_another_build(&image)?, ..image };
            tally.add(self.run(&name, &other, spot, &words, BOOT_LIMIT, |ran| {
                verdict(lines::judge_refusal(ran))
            })?);
        }
        Ok(tally)
    }

    fn loads(&self, name: &str, spot: Spot) -> Result<Tally> {
        let folder = loads::compile(&self.workspace)?;
        // Missing, it is not looked for in each case.
        self.place(spot)?;
        let mut step = Step::start(name);
        let mut tally = Tally::default();
        for case in loads::CASES {
            match loads::run(case, &folder, spot)? {
                None => tally.passed += 1,
                Some(complaint) => tally.fail(complaint),
            }
            step.feed(b".\n");
        }
        step.end(&tally.to_string());
        Ok(tally)
    }

    fn profile(&self, name: &str, spot: Spot, cpus: u32) -> Result<Tally> {
        let image = self.image(DEMO, || build::build(&self.workspace, &self.release(DEMO)))?;
        let made = profiles::run(cpus, self.place(spot)?).profile(
            &self.workspace,
            &image,
            vec![profile::load(profiles::SECONDS)],
        )?;
        self.keep(name, &made.text);
        Ok(match profiles::judge(&made)? {
            None => Tally { passed: 1, ..Tally::default() },
            Some(complaint) => Tally::failure(complaint),
        })
    }

    fn demo(&self, name: &str, spot: Spot) -> Result<Tally> {
        let image = self.image(DEMO, || build::build(&self.workspace, &self.release(DEMO)))?;
        self.run(name, &image, spot, &[], DEMO_LIMIT, suite::demo)
    }

    fn stable_unwind(&self, name: &str, spot: Spot) -> Result<Tally> {
        let program = self.release(STABLE_UNWIND);
        let image = self.image(STABLE_UNWIND, || build::build(&self.workspace, &program))?;
        self.run(name, &image, spot, &[], DEMO_LIMIT, suite::demo)
    }

    /// Its journey, and how it dies.
    fn stable(&self, name: &str, spot: Spot) -> Result<Tally> {
        let program = self.release(STABLE_KERNEL);
        let image = self.image(STABLE_KERNEL, || build::build(&self.workspace, &program))?;
        let mut tally = self.run(name, &image, spot, &[], DEMO_LIMIT, suite::demo)?;
        let words = [deaths::ON_STABLE.name.to_owned()];
        let death = |ran: &Ran| match deaths::judge(&deaths::ON_STABLE, ran) {
            None => Tally { passed: 1, ..Tally::default() },
            Some(complaint) => Tally::failure(complaint),
        };
        tally.add(self.run(
            &format!("{name}, a panic"),
            &image,
            spot,
            &words,
            BOOT_LIMIT,
            death,
        )?);
        Ok(tally)
    }

    fn boot(&self, name: &str, variant: &'a boot::Variant, spot: Spot) -> Result<Tally> {
        let image = self.image(variant.name, || boot::build(&self.workspace, variant))?;
        self.run(name, &image, spot, &[], BOOT_LIMIT, |ran| suite::refusal(ran, variant.expected))
    }

    fn wasmtime(&self, name: &str, spot: Spot, version: Wasmtime) -> Result<Tally> {
        let build = || wasm::build(&self.workspace, version, Load::Programs, !self.no_install);
        let image = match version {
            Wasmtime::Locked => "wasmtime",
            Wasmtime::Newer => "wasmtime-newer",
        };
        self.run(name, &self.image(image, build)?, spot, &[], DEMO_LIMIT, suite::demo)
    }

    fn specification(&self, name: &str, spot: Spot, tasks: u32) -> Result<Tally> {
        let build = || wasm::build(&self.workspace, Wasmtime::Locked, Load::Spec, !self.no_install);
        let words = [format!("tasks={tasks}")];
        let image = self.image("wasm-spec", build)?;
        self.run(name, &image, spot, &words, SUITES_LIMIT, suite::specification)
    }

    fn run(
        &self,
        name: &str,
        image: &Image,
        spot: Spot,
        words: &[String],
        limit: Duration,
        judge: impl FnOnce(&Ran) -> Tally,
    ) -> Result<Tally> {
        let place = self.place(spot)?;
        let mut step = Step::start(name);
        let ran = place.run(image, words, limit, &mut |bytes| step.feed(bytes))?;
        self.keep(name, &ran.output);
        let tally = judge(&ran);
        step.end(&tally.to_string());
        Ok(tally)
    }

    fn release<'p>(&self, package: &'p str) -> Program<'p> {
        let may_install = !self.no_install;
        Program { package, name: package, release: true, script: None, may_install }
    }

    fn place(&self, spot: Spot) -> Result<Place> {
        let Spot::Qemu(cpus) = spot else { return Ok(Place::Process) };
        let qemu = self.qemu.get_or_init(|| {
            setup::find_or_install(&QEMU, !self.no_install).map_err(|why| why.to_string())
        });
        let program = qemu.clone().map_err(|why| anyhow!(why))?;
        Ok(Place::Qemu { program, cpus })
    }

    /// The kernel called `name`, built when it is first asked for.
    fn image(&self, name: &'a str, build: impl FnOnce() -> Result<Image>) -> Result<Image> {
        if let Some(known) = self.images.borrow().get(name) {
            return known.clone().ok_or_else(|| anyhow!("not built, see above"));
        }
        let built = build();
        self.images.borrow_mut().insert(name, built.as_ref().ok().cloned());
        built
    }

    /// Keeps a suite's output as a file. Losing it does not change the result.
    fn keep(&self, name: &str, output: &str) {
        let folder = self.workspace.output().join("logs");
        let file = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
        let _ = fs::create_dir_all(&folder);
        let _ = fs::write(folder.join(format!("{file}.log")), output);
    }
}

/// One test, that passed if there is nothing to complain of.
fn verdict(complaint: Option<String>) -> Tally {
    match complaint {
        None => Tally { passed: 1, ..Tally::default() },
        Some(complaint) => Tally::failure(complaint),
    }
}
