#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::vec;

use proptest::prelude::*;

use super::*;

const TCB: Layout = Layout::new::<[u64; 9]>();

fn area(template: &Template<'_>, surplus: usize) -> AreaLayout {
    AreaLayout::new(template, surplus, TCB).unwrap()
}

#[test]
fn the_kernel_block_starts_where_the_linkers_put_it() {
    // (p_memsz, p_align, p_vaddr, TPOFF of the first byte), read off static programs.
    let lld_22 = [
        (8, 4, 0x20_2000, -8),
        (11, 16, 0x20_2000, -16),
        (63, 64, 0x20_2004, -124),
        (13, 16, 0x20_2004, -28),
        (20, 16, 0x20_200c, -20),
        (127, 128, 0x20_2008, -248),
        (124, 64, 0x20_2004, -124),
        (16, 16, 0x20_2001, -31),
        (5, 8, 0x20_2000, -8),
    ];
    let gnu_ld_2_40 = [
        (8, 4, 0x20_2000, -8),
        (11, 16, 0x20_2000, -16),
        (67, 64, 0x20_2040, -128),
        (17, 16, 0x20_2010, -32),
        (32, 16, 0x20_2010, -32),
        (135, 128, 0x20_2080, -256),
        (128, 64, 0x20_2040, -128),
    ];
    for (size, align, address, expected) in lld_22.into_iter().chain(gnu_ld_2_40) {
        let template = Template::new(&[], size, align).unwrap().starting_at(address);
        let offset = area(&template, 0).kernel().offset().get();
        assert_eq!(offset, expected, "{size} bytes aligned to {align} at {address:#x}");
    }
}

#[test]
fn a_template_is_refused_with_its_numbers() {
    let refused = |tdata, size, align| Template::new(tdata, size, align).unwrap_err();
    assert_eq!(refused(&[1, 2, 3], 2, 1), LayoutError::ImageTooLarge { image: 3, size: 2 });
    assert_eq!(refused(&[], 2, 3), LayoutError::BadAlignment(3));
    assert_eq!(
        refused(&[], REACH + 1, 1),
        LayoutError::TooLarge { size: REACH + 1, align: 1, surplus: 0 }
    );
}

#[test]
fn alignment_zero_means_one() {
    assert_eq!(Template::new(&[], 5, 0).unwrap().align(), 1);
}

#[test]
fn an_area_ends_where_a_32_bit_offset_does() {
    let template = Template::new(&[], 100, 4).unwrap();
    let layout = area(&template, REACH - 100);
    assert_eq!(TpOffset::below(layout.surplus().end).get(), i32::MIN);
    let too_large = AreaLayout::new(&template, REACH - 99, TCB).unwrap_err();
    let expected = LayoutError::TooLarge { size: 100, align: 4, surplus: REACH - 99 };
    assert_eq!(too_large, expected);
}

#[test]
fn no_variables_take_no_space() {
    let layout = area(&Template::EMPTY, 0);
    assert_eq!(layout.kernel(), Block { distance: 0, size: 0 });
    assert_eq!(layout.surplus(), 0..0);
    assert_eq!(layout.memory().size(), TCB.size());
}

#[test]
fn the_tightest_gap_is_taken_and_the_one_nearest_to_tp_among_equals() {
    let mut surplus = Surplus::new(0..100);
    let mut take = |size| surplus.take(size, 1).unwrap();
    // Gaps of 20, 10, 10 and 40 bytes, with single bytes between them.
    let blocks = [take(20), take(1), take(10), take(1), take(10), take(1)];
    for gap in [blocks[0], blocks[2], blocks[4]] {
        surplus.give_back(gap);
    }
    assert_eq!(surplus.take(10, 1), Ok(Block { distance: 31, size: 10 }));
    assert_eq!(surplus.take(10, 1), Ok(Block { distance: 42, size: 10 }));
    assert_eq!(surplus.take(10, 1), Ok(Block { distance: 10, size: 10 }));
}

#[test]
fn an_exhausted_surplus_tells_what_is_left() {
    let mut surplus = Surplus::new(8..72);
    let first = surplus.take(16, 8).unwrap();
    surplus.take(16, 8).unwrap();
    surplus.give_back(first);
    let expected = ReserveError::SurplusExhausted { needed: 33, align: 1, free: 48, largest: 32 };
    assert_eq!(surplus.take(33, 1), Err(expected));
    let expected = ReserveError::SurplusExhausted { needed: 32, align: 64, free: 48, largest: 32 };
    assert_eq!(surplus.take(32, 64), Err(expected));
}

#[test]
fn sizes_near_the_end_of_the_number_line_are_refused() {
    let mut surplus = Surplus::new(8..72);
    for (size, align) in [(usize::MAX, 1), (usize::MAX - 8, 4096), (64, 1 << 63)] {
        let expected =
            ReserveError::SurplusExhausted { needed: size, align, free: 64, largest: 64 };
        assert_eq!(surplus.take(size, align), Err(expected));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take { size: usize, align: usize },
    GiveBack { index: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..80, 0u32..=6).prop_map(|(size, log)| Step::Take { size, align: 1 << log }),
        2 => any::<usize>().prop_map(|index| Step::GiveBack { index }),
    ]
}

/// The runs of consecutive numbers in a set.
fn runs(free: &BTreeSet<usize>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = vec![];
    for &at in free {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// Whether some multiple of `align` has `size` free bytes right before it.
fn fits(free: &BTreeSet<usize>, size: usize, align: usize) -> bool {
    let bound = free.last().map_or(0, |last| last + 1);
    (0..=bound).step_by(align).any(|distance| {
        distance >= size && (distance - size..distance).all(|at| free.contains(&at))
    })
}

proptest! {
    #[test]
    fn every_area_keeps_the_kernel_block_aligned_below_tp_and_the_rest_apart(
        log in 0u32..=14,
        size in 0usize..=10_000,
        address in any::<u32>(),
        surplus in 0usize..=10_000,
    ) {
        let align = 1usize << log;
        let template = Template::new(&[], size, align).unwrap().starting_at(address.into());
        let layout = area(&template, surplus);
        let Block { distance, .. } = layout.kernel();
        let memory = layout.memory();
        // TP is a multiple of the area's alignment, so TP − distance is where the segment was.
        prop_assert_eq!(layout.tp() % memory.align(), 0);
        prop_assert_eq!(memory.align() % align, 0);
        prop_assert_eq!((layout.tp() - distance) % align, address as usize % align);
        // The block ends at or below TP, by less than its alignment.
        prop_assert!((size..size + align).contains(&distance));
        // The surplus follows, all of it inside the memory.
        prop_assert_eq!(layout.surplus(), distance..distance + surplus);
        prop_assert!(layout.surplus().end <= layout.tp());
        prop_assert_eq!(memory.size(), layout.tp() + TCB.size());
    }

    #[test]
    fn the_surplus_agrees_with_a_set_of_free_bytes(
        start in 0usize..64,
        len in 0usize..400,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut surplus = Surplus::new(start..start + len);
        let mut free: BTreeSet<usize> = (start..start + len).collect();
        let mut blocks: Vec<Block> = vec![];
        for step in steps {
            match step {
                Step::Take { size: 0, align } => {
                    prop_assert_eq!(surplus.take(0, align), Ok(Block { distance: 0, size: 0 }));
                }
                Step::Take { size, align } => match surplus.take(size, align) {
                    Ok(block) => {
                        prop_assert_eq!((block.distance % align, block.size), (0, size));
                        for at in block.distance - size..block.distance {
                            prop_assert!(free.remove(&at), "byte {} was taken", at);
                        }
                        blocks.push(block);
                    }
                    Err(error) => {
                        prop_assert!(!fits(&free, size, align));
                        let largest = runs(&free).iter().map(Range::len).max().unwrap_or(0);
                        let expected = ReserveError::SurplusExhausted {
                            needed: size, align, free: free.len(), largest,
                        };
                        prop_assert_eq!(error, expected);
                    }
                },
                Step::GiveBack { index } if !blocks.is_empty() => {
                    let block = blocks.swap_remove(index % blocks.len());
                    surplus.give_back(block);
                    free.extend(block.distance - block.size..block.distance);
                }
                Step::GiveBack { .. } => {}
            }
            let gaps: Vec<_> = surplus.gaps().filter(|gap| !gap.is_empty()).collect();
            prop_assert_eq!(gaps, runs(&free));
            prop_assert_eq!(surplus.free(), free.len());
        }
    }
}
