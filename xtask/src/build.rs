//! Builds a kernel program and everything it is started with.
//!
//! ```text
//! cargo build demo + plugin ─┬─► demo (ELF) ──► embed symbols ──► NAME.elf
//!                            └─► plugin (rlib) ─► its object ─┐
//! rustc tests/objects/* (suites only) ────────────────────────┴─► NAME.cpio
//!                                      the same, .debug_* ──────► NAME.lines.cpio
//! ```
//!
//! One cargo invocation builds a kernel and the crate it will load, so that both agree on the
//! features, and with them on the hashes in the symbols, of all they share.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;
use crate::cpio::{self, Member};
use crate::debug;
use crate::embed;
use crate::objects;
use crate::packages::{
    PLUGIN, STABLE_KERNEL, STABLE_KERNEL_PROFILE, STABLE_UNWIND, STABLE_UNWIND_FLAGS, SUITES,
};
use crate::progress::Step;
use crate::rlib;
use crate::stable;
use crate::workspace::Workspace;

/// A build that takes longer hangs.
pub const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);
/// What the kernel calls its debug information.
const DEBUG: &str = "kernel.debug";
/// The linker script of this environment variable replaces the kernel's own.
const SCRIPT_VARIABLE: &str = "UNSPOOL_LINKER_SCRIPT";

/// A kernel to build.
pub struct Program<'a> {
    /// Its package, which has a binary of the same name.
    pub package: &'a str,
    /// The name of what is made of it.
    pub name: &'a str,
    /// With optimizations (the release profile).
    pub release: bool,
    /// Another linker script than the kernel's own.
    pub script: Option<&'a Path>,
    /// Whether a compiler that is missing may be installed.
    pub may_install: bool,
}

/// A kernel ready to start.
#[derive(Clone)]
pub struct Image {
    /// The ELF file, its symbol table within.
    pub elf: PathBuf,
    /// The same without the symbol table.
    pub plain: PathBuf,
    /// The archive of its modules.
    pub modules: PathBuf,
    /// The same with the kernel's debug information.
    pub lines: PathBuf,
}

impl Image {
    /// The same, whose traces have lines.
    #[must_use]
    pub fn with_lines(self) -> Self {
        Self { modules: self.lines.clone(), ..self }
    }
}

/// The archive that has the kernel's debug information besides what the one in `modules` has.
pub fn with_lines(modules: &Path) -> PathBuf {
    modules.with_extension("lines.cpio")
}

/// Builds `program`, showing what goes on.
///
/// # Errors
/// The build fails; the compiler's messages are part of the error.
pub fn build(workspace: &Workspace, program: &Program<'_>) -> Result<Image> {
    build_with(workspace, program, |plugin| {
        let mut modules = Vec::from_iter(plugin);
        // One that refuses to boot loads nothing.
        if program.package == SUITES && program.script.is_none() {
            modules.extend(objects::compile(workspace, program.may_install)?);
        }
        Ok((workspace.output().join(format!("{}.cpio", program.name)), modules))
    })
}

/// Builds `program`, to be started with the modules that `choose` puts into a file of its choice; it
/// is given the plugin, if the program has one.
///
/// # Errors
/// As [`build`]; or `choose` fails.
pub fn build_with(
    workspace: &Workspace,
    program: &Program<'_>,
    choose: impl FnOnce(Option<Member>) -> Result<(PathBuf, Vec<Member>)>,
) -> Result<Image> {
    let step = Step::start(format!("building {}", program.name));
    let (built, step) = compile(workspace, program, step)?;
    let (file, modules) = choose(built.plugin.as_deref().map(plugin).transpose()?)?;
    let (image, made) = put_together(workspace, program.name, &built.executable, file, &modules)?;
    step.end(&made);
    Ok(image)
}

/// Makes `NAME.elf` and `NAME.cpio` of a kernel that is built, and of what it is started with.
///
/// # Errors
/// The kernel has no place for a symbol table, or a file cannot be written.
pub fn finish(
    workspace: &Workspace,
    name: &str,
    executable: &Path,
    modules: &[Member],
) -> Result<Image> {
    let step = Step::start(format!("putting {name} together"));
    let file = workspace.output().join(format!("{name}.cpio"));
    let (image, made) = put_together(workspace, name, executable, file, modules)?;
    step.end(&made);
    Ok(image)
}

/// The image, and a line about it.
fn put_together(
    workspace: &Workspace,
    name: &str,
    executable: &Path,
    file: PathBuf,
    modules: &[Member],
) -> Result<(Image, String)> {
    let plain = fs::read(executable)?;
    let embedded = embed::embed(&plain)
        .with_context(|| format!("no symbol table for {}", executable.display()))?;
    let output = workspace.output();
    fs::create_dir_all(&output)?;
    let archive = cpio::archive(modules)?;
    let debug = Member { name: DEBUG.to_owned(), data: debug::only(&plain)? };
    let debug_size = debug.data.len();
    let all: Vec<_> = modules.iter().cloned().chain([debug]).collect();
    let elf = output.join(format!("{name}.elf"));
    let lines = with_lines(&file);
    let image = Image { elf, plain: executable.to_owned(), modules: file, lines };
    write(&image.elf, &embedded.elf, 0o755)?;
    write(&image.modules, &archive, 0o644)?;
    write(&image.lines, &cpio::archive(&all)?, 0o644)?;
    let made = format!(
        "{} KiB; {embedded}; modules: {}, {} KiB; debug information: {} KiB",
        embedded.elf.len() / 1024,
        modules.len(),
        archive.len() / 1024,
        debug_size / 1024
    );
    Ok((image, made))
}

/// Replaces a file at once: a process may be executing it, or about to.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", process::id()));
    let new = Path::new(&new);
    fs::write(new, bytes)
        .and_then(|()| fs::set_permissions(new, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The plugin's object as a module: `unspool_plugin.o`.
fn plugin(path: &Path) -> Result<Member> {
    let bytes = fs::read(path)?;
    let object = rlib::object(&bytes).with_context(|| path.display().to_string())?;
    Ok(Member { name: format!("{}.o", crate_name(PLUGIN)), data: object.to_owned() })
}

fn crate_name(package: &str) -> String {
    package.replace('-', "_")
}

/// What cargo made.
struct Built {
    executable: PathBuf,
    /// Only for kernels of the same toolchain.
    plugin: Option<PathBuf>,
}

fn compile(workspace: &Workspace, program: &Program<'_>, mut step: Step) -> Result<(Built, Step)> {
    let unwinds = program.package == STABLE_UNWIND;
    let stable = unwinds || program.package == STABLE_KERNEL;
    let mut cargo = if stable { stable::cargo(workspace, &mut step)? } else { workspace.cargo() };
    cargo.arg(if unwinds { "rustc" } else { "build" });
    cargo.args(["--message-format=json-render-diagnostics", "-p", program.package]);
    if unwinds {
        // The flags are for this target alone.
        cargo.args(["--release", "--bin", program.package, "--"]).args(STABLE_UNWIND_FLAGS);
    } else if stable {
        cargo.args(["--profile", STABLE_KERNEL_PROFILE]);
    } else {
        cargo.args(["-p", PLUGIN]);
        if program.release {
            cargo.arg("--release");
        }
    }
    match program.script {
        Some(script) => cargo.env(SCRIPT_VARIABLE, script),
        None => cargo.env_remove(SCRIPT_VARIABLE),
    };
    let finished = command::run(cargo, BUILD_LIMIT, &mut |bytes| step.feed(bytes))?;
    if !finished.end.success() {
        step.end("failed");
        bail!("{} does not build ({}):\n{}", program.package, finished.end, finished.messages());
    }
    let built = Built {
        executable: artifact(&finished.output, program.package, "")
            .with_context(|| format!("cargo built no executable {}", program.package))?,
        plugin: artifact(&finished.output, &crate_name(PLUGIN), ".rlib"),
    };
    if built.plugin.is_none() && !stable {
        bail!("cargo built no rlib of {PLUGIN}");
    }
    Ok((built, step))
}

/// Among cargo's messages, the file of target `target` whose name ends in `suffix`.
pub fn artifact(messages: &str, target: &str, suffix: &str) -> Option<PathBuf> {
    messages.lines().filter(|line| line.starts_with('{')).find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        if message["reason"] != "compiler-artifact" || message["target"]["name"] != target {
            return None;
        }
        let kind = if suffix.is_empty() { "bin" } else { "lib" };
        let kinds = message["target"]["kind"].as_array()?;
        kinds.iter().filter_map(Value::as_str).find(|each| each.ends_with(kind))?;
        let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
        files.filter(|file| file.ends_with(suffix)).map(PathBuf::from).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_found_by_target_and_kind() {
        let messages = r#"   Compiling demo v0.1.0
{"reason":"compiler-artifact","target":{"name":"build-script-build","kind":["custom-build"]},"filenames":["/t/b"]}
{"reason":"compiler-artifact","target":{"name":"plugin","kind":["lib"]},"filenames":["/t/p.rlib","/t/p.rmeta"]}
{"reason":"compiler-artifact","target":{"name":"demo","kind":["bin"]},"filenames":["/t/demo"]}
{"reason":"build-finished","success":true}"#;
        assert_eq!(artifact(messages, "demo", ""), Some("/t/demo".into()));
        assert_eq!(artifact(messages, "plugin", ".rlib"), Some("/t/p.rlib".into()));
        assert_eq!(artifact(messages, "other", ""), None);
        assert_eq!(artifact(messages, "plugin", ""), None);
    }
}
