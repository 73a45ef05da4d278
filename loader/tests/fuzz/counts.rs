//! How the cases ended.

use std::collections::BTreeMap;
use std::fmt;

use unspool_loader::{Cause, LoadError};

use crate::heap;

#[derive(Default)]
pub struct Counts {
    pub loaded: u64,
    /// Of these, how many were made of several files.
    pub together: u64,
    pub given_back: u64,
    /// Loads with one allocation failing, each of a set's in turn.
    pub in_turn: u64,
    refused: u64,
    causes: BTreeMap<String, u64>,
    /// Bytes that all this takes on the heap.
    pub heap: isize,
}

impl Counts {
    /// One more set that was refused, and why: the name of the cause.
    pub fn refuse(&mut self, error: &LoadError) {
        assert!(!error.to_string().is_empty());
        self.refused += 1;
        let before = heap::used();
        *self.causes.entry(cause_of(error)).or_default() += 1;
        self.heap += heap::used() - before;
    }

    /// That a run of so many cases has seen of everything, if it is as long as the shortest.
    pub fn check(&self, cases: u64, shortest: u64) {
        let enough = [self.loaded, self.refused, self.together * 4, self.in_turn];
        assert!(cases < shortest || enough.iter().all(|count| count * 20 > cases), "{self}");
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loaded, together, given_back, in_turn, refused, causes, .. } = self;
        writeln!(f, "{loaded} sets loaded ({together} of several files), {refused} refused,")?;
        writeln!(f, "{given_back} unloaded, {in_turn} loads with an allocation failing in turn")?;
        let mut causes: Vec<_> = causes.iter().collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        causes.into_iter().try_for_each(|(cause, count)| writeln!(f, "  {count:>9} {cause}"))
    }
}

/// The name of the cause; of an archive and of a relocation, what is wrong with it.
fn cause_of(error: &LoadError) -> String {
    let cause = format!("{:?}", error.cause());
    let (name, problem) = match (error.cause(), cause.split_once("problem: ")) {
        (Cause::Archive { .. }, Some((_, problem))) => ("Archive: ", problem),
        (Cause::Relocation { .. }, Some((_, problem))) => ("Relocation: ", problem),
        _ => ("", cause.as_str()),
    };
    let end = problem.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(problem.len());
    format!("{name}{}", &problem[..end])
}
