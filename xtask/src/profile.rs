//! `cargo xtask profile`: what a kernel's CPUs do, sampled while it runs, as a flame graph.
//!
//! ```text
//! kernel profile=1000 ──► console: @s … @s … @e ──► fold ──► target/profile/NAME.folded
//!   samples of all CPUs     lines, among others      ▲              NAME.svg
//!                                            NAME.elf: names        top functions, costs
//! ```
//!
//! Any kernel program will do, without a change to it. The demo has a load for this, and does it by
//! turns with and without sampling.

mod fold;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, value_parser};
use inferno::flamegraph;
use unspool_stack_trace::samples::Counts;

use self::fold::Profile;
use crate::build::{self, Image, Program};
use crate::decode::file::{Files, Known};
use crate::libtest::tail;
use crate::packages::DEMO;
use crate::place::Place;
use crate::progress::{Step, show};
use crate::qemu::Outcome;
use crate::setup::{self, QEMU};
use crate::workspace::Workspace;

/// How many functions are shown.
const TOP: usize = 12;
/// For building up, and for writing the samples.
const EXTRA: Duration = Duration::from_secs(300);

/// What to look at.
#[derive(Args)]
pub struct Options {
    /// The package of the kernel
    #[arg(value_name = "PROGRAM", default_value = DEMO)]
    program: String,
    /// In QEMU, instead of as a bare Linux process
    #[arg(long)]
    qemu: bool,
    /// CPUs of the machine, or threads of the process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    smp: u32,
    /// Samples a second, of each CPU
    #[arg(long, value_name = "HZ", default_value_t = 1000)]
    rate: u32,
    /// For how long the demo works; other programs end by themselves, within this and five minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u32,
    /// Memory for the samples of each CPU; what has no room is dropped, and counted
    #[arg(long, value_name = "KIB", default_value_t = 1024)]
    memory: u32,
    /// Do not install QEMU when it is missing
    #[arg(long)]
    no_install: bool,
    /// Words for the kernel's command line
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// Does it.
///
/// # Errors
/// The kernel does not build, does not run to its end, or gives no samples.
pub fn profile(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let program = Program {
        package: &options.program,
        name: &options.program,
        release: true,
        script: None,
        may_install: !options.no_install,
    };
    let place = if options.qemu {
        let program = setup::find_or_install(&QEMU, !options.no_install)?;
        Place::Qemu { program, cpus: options.smp }
    } else {
        Place::Process
    };
    let image = build::build(&workspace, &program)?;
    let mut words = options.words.clone();
    if options.program == DEMO && words.is_empty() {
        words.push(load(options.seconds));
    }
    let run = Run {
        name: &options.program,
        place,
        cpus: options.smp,
        hertz: options.rate,
        memory: options.memory,
        limit: Duration::from_secs(options.seconds.into()) + EXTRA,
    };
    let made = run.profile(&workspace, &image, words)?;
    show(&made.text);
    Ok(ExitCode::SUCCESS)
}

/// The word that makes the demo work.
pub fn load(seconds: u32) -> String {
    format!("load={seconds}")
}

/// How to take a profile.
pub struct Run<'a> {
    /// What files are called.
    pub name: &'a str,
    /// Where the kernel runs.
    pub place: Place,
    /// CPUs.
    pub cpus: u32,
    /// Samples a second, of each.
    pub hertz: u32,
    /// KiB for the samples of each.
    pub memory: u32,
    /// For how long it may run.
    pub limit: Duration,
}

/// What became of it.
pub struct Made {
    /// Stacks with how often each was seen, one a line.
    pub folded: PathBuf,
    /// The flame graph.
    pub graph: PathBuf,
    /// Top functions and costs.
    pub text: String,
}

impl Run<'_> {
    /// Runs the kernel with `words`, and writes the files.
    ///
    /// # Errors
    /// It does not run to its end, gives no samples, or files cannot be written.
    pub fn profile(
        &self,
        workspace: &Workspace,
        image: &Image,
        mut words: Vec<String>,
    ) -> Result<Made> {
        words.push(format!("profile={}", self.hertz));
        words.push(format!("profile-memory={}", u64::from(self.memory) * 1024));
        words.push(format!("cpus={}", self.cpus));
        let mut step = Step::start(format!("profiling {}", self.name));
        let ran = self.place.run(image, &words, self.limit, &mut |bytes| step.feed(bytes))?;
        let folder = workspace.target.join("profile");
        fs::create_dir_all(&folder)?;
        let kind = if matches!(self.place, Place::Process) { "process" } else { "qemu" };
        let file = |ending: &str| folder.join(format!("{}.{kind}.{ending}", self.name));
        write(&file("log"), ran.output.as_bytes())?;
        if ran.outcome != Outcome::Exit(0) {
            step.end("failed");
            bail!("{} ended with {}:\n{}", self.name, ran.outcome, tail(&ran.output, 30));
        }
        step.end(&ran.outcome.to_string());

        let files = Files::read(&image.elf)?;
        let contents = files.contents()?;
        let known = Known::new(contents.first().context("an empty archive")?)?;
        let profile = Profile::read(ran.output.lines(), known.symbols());
        let counts = profile.end.context("the kernel ended without writing its samples")?;
        ensure!(profile.samples > 0, "the kernel took no sample");
        let made = Made {
            folded: file("folded"),
            graph: file("svg"),
            text: self.text(&profile, counts, &[file("folded"), file("svg")]),
        };
        write(&made.folded, profile.folded().as_bytes())?;
        write(&made.graph, &self.graph(&profile)?)?;
        Ok(made)
    }

    fn graph(&self, profile: &Profile) -> Result<Vec<u8>> {
        let mut options = flamegraph::Options::default();
        options.title = self.name.to_owned();
        options.subtitle = Some(self.circumstances());
        options.count_name = "samples".to_owned();
        options.deterministic = true;
        let (folded, mut graph) = (profile.folded(), Vec::new());
        flamegraph::from_lines(&mut options, folded.lines(), &mut graph).context("inferno")?;
        Ok(graph)
    }

    fn circumstances(&self) -> String {
        let cpus = if self.cpus == 1 { "1 CPU" } else { &format!("{} CPUs", self.cpus) };
        match self.place {
            Place::Process => format!("bare process, {cpus}, {} Hz", self.hertz),
            Place::Qemu { .. } => format!("QEMU, {cpus}, {} Hz", self.hertz),
        }
    }

    fn text(&self, profile: &Profile, counts: Counts, files: &[PathBuf]) -> String {
        let mut text = format!("{}: {}\n", self.name, self.circumstances());
        let lost = counts.kept.saturating_sub(profile.samples);
        let seconds = counts.elapsed as f64 / 1e9;
        let asked = seconds * (counts.hertz * counts.cpus) as f64;
        let busy = profile.samples - profile.idle;
        // Writing to a string never fails.
        let _ = writeln!(
            text,
            "{} samples in {seconds:.2} s of {asked:.0} that the timers should have taken; \
             {} dropped, {lost} lost on the console; {:.1} % idle\n",
            profile.samples,
            counts.dropped,
            percent(profile.idle, profile.samples)
        );
        let _ = writeln!(text, "    self     total  function");
        for (name, share) in profile.top().into_iter().take(TOP) {
            let (own, total) = (percent(share.own, busy), percent(share.total, busy));
            let _ = writeln!(text, "{own:>6.1} %  {total:>6.1} %  {name}");
        }
        text.push('\n');
        costs(&mut text, profile, counts);
        for file in files {
            let _ = writeln!(text, "{}", file.display());
        }
        text
    }
}

/// What sampling cost: as it measured itself, and by what it slowed down.
fn costs(text: &mut String, profile: &Profile, counts: Counts) {
    let each = counts.spent as f64 / (counts.kept + counts.dropped).max(1) as f64;
    let _ = writeln!(
        text,
        "a sample takes {:.2} µs: at {} Hz, {:.2} % of a CPU",
        each / 1e3,
        counts.hertz,
        each * counts.hertz as f64 / 1e7
    );
    let slower = profile.slower();
    if !slower.is_empty() {
        let [low, middle, high] =
            [1, 2, 3].map(|quarter| slower[slower.len() * quarter / 4] * 100.0);
        let _ = writeln!(
            text,
            "the same work, by turns with samples and without: {middle:+.2} % (median of {} pairs; \
             half of them from {low:+.1} to {high:+.1} %)",
            slower.len()
        );
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
