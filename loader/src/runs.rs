//! Sorts what comes in few ascending runs, as functions do: a file's local ones, then its others.
//!
//! ```text
//!   1 4 7 │ 2 3 9 │ 12 15 │ 11 14      runs, two by two ──►  1 2 3 4 7 9 11 12 14 15
//! ```
//!
//! Promise: equal items keep their order; there is memory, or an error. (The standard's stable sort
//! ends the program without.)
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// Sorts by `key`.
pub(crate) fn sort<T: Copy, K: Ord>(
    items: &mut Vec<T>,
    key: impl Fn(&T) -> K,
) -> Result<(), TryReserveError> {
    if items.is_sorted_by_key(&key) {
        return Ok(());
    }
    let mut merged = Vec::new();
    merged.try_reserve_exact(items.len())?;
    loop {
        let (mut rest, mut pairs) = (&items[..], 0);
        while !rest.is_empty() {
            let one = take_run(&mut rest, &key);
            let other = take_run(&mut rest, &key);
            merge(one, other, &key, &mut merged);
            pairs += 1;
        }
        core::mem::swap(items, &mut merged);
        if pairs <= 1 {
            return Ok(());
        }
        merged.clear();
    }
}

/// Takes the items off the front that ascend.
fn take_run<'r, T, K: Ord>(rest: &mut &'r [T], key: impl Fn(&T) -> K) -> &'r [T] {
    let falls = rest.windows(2).position(|pair| key(&pair[0]) > key(&pair[1]));
    let (run, behind) = rest.split_at(falls.map_or(rest.len(), |last| last + 1));
    *rest = behind;
    run
}

/// Appends two runs as one, for which there is room.
fn merge<T: Copy, K: Ord>(mut one: &[T], mut other: &[T], key: impl Fn(&T) -> K, to: &mut Vec<T>) {
    while let ([first, one_rest @ ..], [second, other_rest @ ..]) = (one, other) {
        if key(first) <= key(second) {
            to.push(*first);
            one = one_rest;
        } else {
            to.push(*second);
            other = other_rest;
        }
    }
    to.extend_from_slice(one);
    to.extend_from_slice(other);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_result_is_that_of_the_standards_stable_sort(
            mut items: Vec<(u8, u16)>,
            runs in prop::collection::vec(prop::collection::vec(any::<(u8, u16)>(), 0..40), 0..6),
        ) {
            for mut run in runs {
                run.sort();
                items.extend(run);
            }
            let mut expected = items.clone();
            expected.sort_by_key(|item| item.0);
            sort(&mut items, |item| item.0).unwrap();
            prop_assert_eq!(items, expected);
        }
    }
}
