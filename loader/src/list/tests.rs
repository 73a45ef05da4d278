use super::*;
use alloc::vec::Vec;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize};

fn items<T: Clone, S>(list: &List<T, S>) -> Vec<T> {
    let mut items = list.iter();
    core::iter::from_fn(|| items.next_with(T::clone)).collect()
}

fn list_of(numbers: impl IntoIterator<Item = u32>) -> List<u32, ()> {
    let list = List::new(());
    for n in numbers {
        list.lock().push(n).unwrap();
    }
    list
}

#[test]
fn items_come_in_the_order_they_were_added() {
    assert_eq!(items(&list_of([])), []);
    assert_eq!(items(&list_of([1, 2, 3])), [1, 2, 3]);
}

#[test]
fn an_item_taken_away_is_not_seen_by_the_next_reader() {
    for gone in 1..=3 {
        let list = list_of([1, 2, 3]);
        assert!(list.lock().remove(|&n| n == gone));
        assert!(!list.lock().remove(|&n| n == gone));
        let rest: Vec<_> = (1..=3).filter(|&n| n != gone).collect();
        assert_eq!(items(&list), rest);
        list.lock().push(4).unwrap();
        assert_eq!(items(&list).last(), Some(&4));
        assert_eq!(list.lock().reclaim().collect::<Vec<_>>(), [gone]);
        assert_eq!(list.lock().reclaim().count(), 0);
    }
}

#[test]
fn what_a_reader_stands_on_is_not_reclaimed_and_leads_to_the_end() {
    let list = list_of([1, 2, 3, 4]);
    let mut reader = list.iter();
    assert_eq!(reader.next_with(|&n| n), Some(1));
    let mut writer = list.lock();
    for gone in [2, 3] {
        assert!(writer.remove(|&n| n == gone));
        assert_eq!(writer.reclaim().count(), 0);
    }
    // It had stepped to 2 already, which leads on to what was there when it was taken away.
    assert_eq!(reader.next_with(|&n| n), Some(2));
    assert_eq!(reader.next_with(|&n| n), Some(3));
    assert_eq!(reader.next_with(|&n| n), Some(4));
    assert_eq!(reader.next_with(|&n| n), None);
    assert_eq!(writer.reclaim().count(), 0);
    drop(reader);
    assert_eq!(writer.reclaim().collect::<Vec<_>>(), [2, 3]);
}

/// Counts itself.
struct Counted<'c>(&'c AtomicUsize, [usize; 4]);

impl<'c> Counted<'c> {
    fn new(count: &'c AtomicUsize, number: usize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count, [number; 4])
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.1 = [usize::MAX, 0, usize::MAX, 0];
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn items_are_dropped_once_whether_they_were_taken_away_or_not() {
    let count = AtomicUsize::new(0);
    let list = List::new(());
    for n in 0..6 {
        list.lock().push(Counted::new(&count, n)).unwrap();
    }
    assert!(list.lock().remove(|item| item.1[0] == 2));
    drop(list.lock().reclaim().collect::<Vec<_>>());
    assert_eq!(count.load(Ordering::Relaxed), 5);
    assert!(list.lock().remove(|item| item.1[0] == 4));
    drop(list);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

/// How many rounds a test with threads makes.
const ROUNDS: usize = if cfg!(miri) { 50 } else { 20_000 };

#[test]
fn readers_see_whole_items_while_others_come_and_go() {
    let count = AtomicUsize::new(0);
    let (list, done) = (List::new(()), AtomicBool::new(false));
    list.lock().push(Counted::new(&count, usize::MAX)).unwrap();
    std::thread::scope(|scope| {
        let readers = [(); 3].map(|()| {
            scope.spawn(|| {
                let mut seen = BTreeSet::new();
                // Once at least, however late this thread gets its turn.
                let mut last = false;
                while !last {
                    last = done.load(Ordering::Relaxed);
                    let (mut items, mut first) = (list.iter(), true);
                    while let Some(numbers) = items.next_with(|item| item.1) {
                        assert_eq!(numbers, [numbers[0]; 4]);
                        // What is there all the while is seen each time, and in its place.
                        assert_eq!(numbers[0] == usize::MAX, first);
                        first = false;
                        seen.insert(numbers[0]);
                    }
                    assert!(!first);
                }
                seen
            })
        });
        for round in 0..ROUNDS {
            let mut writer = list.lock();
            for n in 0..3 {
                writer.push(Counted::new(&count, round * 3 + n)).unwrap();
            }
            for n in [1, 0, 2] {
                assert!(writer.remove(|item| item.1[0] == round * 3 + n));
            }
            drop(writer.reclaim().collect::<Vec<_>>());
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap().contains(&usize::MAX));
        }
    });
    drop(list.lock().reclaim().collect::<Vec<_>>());
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn what_the_lock_guards_is_seen_by_the_next_who_has_it() {
    let list: List<u32, Vec<u32>> = List::new(Vec::new());
    list.lock().extend([1, 2]);
    assert_eq!(**list.lock(), [1, 2]);
}
