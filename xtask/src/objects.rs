//! Compiles `tests/objects` to the relocatable objects that the suites load.
//!
//! ```text
//! NAME.rs, NAME.c ──► NAME.static.o   -Crelocation-model=static | -fno-pic
//!                 └─► NAME.pic.o      -Crelocation-model=pic    | -fPIC
//! models/access.* ──► one object for each compiler and TLS model (`models`)
//! ```

mod models;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::cpio::Member;
use crate::workspace::Workspace;

/// One file takes a fraction of a second.
const LIMIT: Duration = Duration::from_secs(300);

/// One source to compile in one way.
struct Job {
    /// From the root of the workspace, so that messages name the file as it stands in there.
    source: PathBuf,
    /// What the object is called.
    name: String,
    /// The compiler with its flags, but for the source and the object.
    command: Command,
}

/// How an object's code finds its data and its callees.
#[derive(Clone, Copy)]
enum Model {
    Static,
    Pic,
}

impl Model {
    fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Pic => "pic",
        }
    }
}

/// Every source of `tests/objects`, in both models, in the order of their names; then the TLS
/// models.
///
/// # Errors
/// One of them does not compile, or a compiler is missing and cannot be installed.
pub fn compile(workspace: &Workspace, may_install: bool) -> Result<Vec<Member>> {
    let mut jobs = plain(workspace)?;
    jobs.extend(models::jobs(may_install)?);
    run(workspace, jobs)
}

fn plain(workspace: &Workspace) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for source in sources(&workspace.root.join("tests/objects"))? {
        let stem = source.file_stem().and_then(|stem| stem.to_str()).context("odd file name")?;
        let c = source.extension().is_some_and(|extension| extension == "c");
        for model in [Model::Static, Model::Pic] {
            let command = if c { c_compiler(model) } else { static_or_pic(model) };
            jobs.push(Job {
                source: source.strip_prefix(&workspace.root)?.to_owned(),
                name: format!("{stem}.{}.o", model.name()),
                command,
            });
        }
    }
    Ok(jobs)
}

/// The Rust and C files of a folder that need not exist.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs" || extension == "c") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn run(workspace: &Workspace, jobs: Vec<Job>) -> Result<Vec<Member>> {
    let output = workspace.output().join("objects");
    fs::create_dir_all(&output)?;
    jobs.into_iter().map(|job| one(workspace, job, &output)).collect()
}

fn one(workspace: &Workspace, job: Job, folder: &Path) -> Result<Member> {
    let Job { source, name, mut command } = job;
    // Several of this program may run at once: whoever reads an object finds a whole one.
    let made = folder.join(format!("{name}.{}", process::id()));
    command.current_dir(&workspace.root).arg(&source).arg("-o").arg(&made);
    let finished = command::run(command, LIMIT, &mut |_| {})?;
    if !finished.end.success() {
        let source = source.display();
        bail!("{source} does not compile to {name} ({}):\n{}", finished.end, finished.output);
    }
    let data = fs::read(&made)?;
    fs::rename(&made, folder.join(&name))?;
    Ok(Member { name, data })
}

/// As cargo compiles a crate, but for one object and without dependencies.
fn rust_compiler(level: &str) -> Command {
    let mut rustc = Command::new("rustc");
    rustc.args(["--crate-type=lib", "--emit=obj", "--edition=2024"]);
    rustc.args(["-Cpanic=unwind", "-Ccodegen-units=1", &format!("-Copt-level={level}")]);
    rustc
}

fn static_or_pic(model: Model) -> Command {
    let mut rustc = rust_compiler("2");
    rustc.arg(format!("-Crelocation-model={}", model.name()));
    rustc
}

fn c_compiler(model: Model) -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-c", "-O2", "-ffreestanding", "-fexceptions", "-Wall", "-Werror"]);
    // Functions that ask for a canary get one.
    cc.arg("-fstack-protector-explicit");
    cc.arg(match model {
        Model::Static => "-fno-pic",
        Model::Pic => "-fPIC",
    });
    cc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn workspace(scratch: &Scratch) -> Workspace {
        Workspace {
            root: scratch.path().to_owned(),
            target: scratch.path().join("target"),
            packages: Vec::new(),
            cache: None,
        }
    }

    #[test]
    fn an_object_is_whole_while_it_is_compiled_anew() {
        let scratch = Scratch::new("anew");
        let old = scratch.path().join("a.o");
        fs::write(&old, "old").unwrap();
        // A compiler that begins with an empty file, and then reads what others would.
        let mut command = Command::new("sh");
        command.args(["-c", "> \"$2\"; echo \"new, not $(cat a.o)\" > \"$2\""]);
        let job = Job { source: "a.c".into(), name: "a.o".to_owned(), command };
        let member = one(&workspace(&scratch), job, scratch.path()).unwrap();
        assert_eq!(member.data, b"new, not old\n");
        assert_eq!(fs::read(old).unwrap(), member.data);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn rust_and_c_become_objects_in_both_models() {
        let scratch = Scratch::new("objects");
        let workspace = workspace(&scratch);
        let folder = scratch.path().join("tests/objects");
        let compile = |workspace| run(workspace, plain(workspace).unwrap());
        assert!(compile(&workspace).unwrap().is_empty());

        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.rs"), "#![no_std] pub fn f(x: u8) -> u8 { x }").unwrap();
        fs::write(folder.join("b.c"), "int g(void) { return 3; }").unwrap();
        fs::write(folder.join("README.md"), "not a source").unwrap();
        let members = compile(&workspace).unwrap();
        let names: Vec<_> = members.iter().map(|each| each.name.as_str()).collect();
        assert_eq!(names, ["a.static.o", "a.pic.o", "b.static.o", "b.pic.o"]);
        assert!(members.iter().all(|each| each.data.starts_with(b"\x7fELF")));

        fs::write(folder.join("c.rs"), "fn broken(").unwrap();
        assert!(compile(&workspace).unwrap_err().to_string().contains("c.rs does not compile"));
    }
}
