//! All that unwinds, with the unwinder's cache as `unwind/src/variant.rs` can have it.
//!
//! ```text
//!   off · tiny · wrap ─► the unwinder's tests │ foreign programs, single steps │ suites of a kernel
//!   as it is          ─► the other rows of the report
//! ```
//!
//! Foreign programs and single steps take minutes to build, and run if `UNSPOOL_CACHE_ALL` is set.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::env;

use anyhow::Result;

use super::plan::Spot;
use super::{Bench, SUITES_LIMIT};
use crate::build;
use crate::packages::{CACHE_TESTS, SUITES};
use crate::place::Ran;
use crate::report::Tally;
use crate::suite;

/// What the cache can be besides what it is.
pub const VARIANTS: &[&str] = &["off", "tiny", "wrap"];

/// Which suites of the kernel.
const WORDS: &[&str] = &["throws", "traces", "panics", "unloading", "passing"];

impl Bench<'_> {
    pub(super) fn cache(&self, name: &str, variant: &'static str) -> Tally {
        let bench = Bench {
            workspace: self.workspace.with_cache(variant),
            filter: None,
            no_install: self.no_install,
            qemu: OnceCell::new(),
            images: RefCell::new(BTreeMap::new()),
        };
        // What cannot run hides nothing of what did.
        let or_failed =
            |ran: Result<Tally>| ran.unwrap_or_else(|error| Tally::failure(format!("{error:#}")));
        let (own, foreign) = CACHE_TESTS;
        let mut tally = or_failed(bench.host(&format!("{name}, {own}"), own, |_| ()));
        if env::var_os("UNSPOOL_CACHE_ALL").is_some() {
            tally.add(or_failed(bench.host(&format!("{name}, {foreign}"), foreign, |_| ())));
        }
        let image = build::build(&bench.workspace, &bench.release(SUITES));
        let words: Vec<_> = WORDS.iter().map(|&word| word.to_owned()).collect();
        let suites = format!("{name}, suites");
        let judge = |ran: &Ran| suite::suites(ran, false);
        tally.add(or_failed(image.and_then(|image| {
            bench.run(&suites, &image, Spot::Process, &words, SUITES_LIMIT, judge)
        })));
        tally
    }
}
