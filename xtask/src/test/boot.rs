//! Kernels linked by a script that lacks something: they must say at boot what is missing.
//!
//! ```text
//! kernel.ld ──(without one symbol)──► edited copy ──UNSPOOL_LINKER_SCRIPT──► suites, linked anew
//! ```
//!
//! To add a case, add a [`Variant`].

use std::fs;

use anyhow::{Context, Result};

use crate::build::{self, Image, Program};
use crate::packages::SUITES;
use crate::workspace::Workspace;

/// The linker script of all kernels here.
const SCRIPT: &str = "examples/kernel/kernel.ld";

/// A kernel that must not boot.
#[derive(Debug)]
pub struct Variant {
    /// Its name, also of its files.
    pub name: &'static str,
    /// The symbols whose definitions the linker script loses.
    pub without: &'static [&'static str],
    /// What the kernel must say.
    pub expected: &'static str,
}

/// All of them.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "without-eh-frame",
        without: &["__eh_frame_start"],
        expected: "__eh_frame_start",
    },
    Variant { name: "without-tls", without: &["__tdata_start"], expected: "__tdata_start" },
];

/// Links the suites without what `variant` lacks.
///
/// # Errors
/// The linker script does not define it in the first place, or the build fails.
pub fn build(workspace: &Workspace, variant: &Variant) -> Result<Image> {
    let original = workspace.root.join(SCRIPT);
    let mut script = fs::read_to_string(&original)
        .with_context(|| format!("cannot read {}", original.display()))?;
    for symbol in variant.without {
        script = without(&script, symbol)
            .with_context(|| format!("{SCRIPT} does not define {symbol}"))?;
    }
    fs::create_dir_all(workspace.output())?;
    let edited = workspace.output().join(format!("{}.ld", variant.name));
    fs::write(&edited, script)?;
    let program = Program {
        package: SUITES,
        name: variant.name,
        release: true,
        script: Some(&edited),
        may_install: false,
    };
    build::build(workspace, &program)
}

/// `script` without the assignments to `symbol`, `PROVIDE(…)` around them included; `None` if
/// there is none.
fn without(script: &str, symbol: &str) -> Option<String> {
    let mut rest = script;
    let mut edited = String::new();
    let mut found = false;
    while let Some(at) = rest.find(symbol) {
        let (before, here) = rest.split_at(at);
        let after = &here[symbol.len()..];
        let whole = !before.ends_with(is_name) && !after.starts_with(is_name);
        let assigned = after.trim_start().starts_with('=') && !after.trim_start().starts_with("==");
        if whole && assigned {
            let (kept, _) = wrapper(before);
            edited.push_str(kept);
            rest = &after[after.find(';')? + 1..];
            found = true;
        } else {
            edited.push_str(before);
            edited.push_str(symbol);
            rest = after;
        }
    }
    edited.push_str(rest);
    found.then_some(edited)
}

/// Splits a `PROVIDE(` or `HIDDEN(` off the end of `text`.
fn wrapper(text: &str) -> (&str, &str) {
    let words = ["PROVIDE_HIDDEN", "PROVIDE", "HIDDEN"];
    let open = text.trim_end().strip_suffix('(').map(str::trim_end);
    let start = open.and_then(|open| words.iter().find_map(|word| open.strip_suffix(word)));
    text.split_at(start.map_or(text.len(), str::len))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_assignment_goes() {
        let script = ".a : { x_start = .; *(.a) x_end = .; }\nsize = x_end - x_start;\n";
        let expected = ".a : {  *(.a) x_end = .; }\nsize = x_end - x_start;\n";
        assert_eq!(without(script, "x_start").as_deref(), Some(expected));
    }

    #[test]
    fn a_provide_goes_with_it() {
        let script = "a = 1; PROVIDE_HIDDEN(x = .); HIDDEN ( x = 2 ); b = 3;";
        assert_eq!(without(script, "x").as_deref(), Some("a = 1;   b = 3;"));
    }

    #[test]
    fn another_name_that_contains_it_stays() {
        assert_eq!(without("my_x = 1; x2 = 1; ASSERT(x == 1, \"\");", "x"), None);
    }
}
