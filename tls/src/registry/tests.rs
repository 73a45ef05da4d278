use std::boxed::Box;
use std::format;
use std::thread;
use std::vec;

use proptest::prelude::*;

use super::*;
use crate::error::{OutOfMemory, PublishError, ReserveError};

/// A copy of the bytes at `offset` of an area.
fn bytes(area: &Area<'_>, offset: TpOffset, size: usize) -> Vec<u8> {
    let start = area.thread_pointer().block(offset);
    // SAFETY: The tests ask for blocks of the area's own registry that were filled, and nobody
    // writes to them meanwhile.
    unsafe { core::slice::from_raw_parts(start, size) }.to_vec()
}

/// Overwrites a block, as the task's code would.
fn scribble(area: &Area<'_>, offset: TpOffset, size: usize) {
    let start = area.thread_pointer().block(offset);
    // SAFETY: As for `bytes`.
    unsafe { start.write_bytes(0xa5, size) };
}

/// The `n`-th word of an area's TCB.
fn tcb_word(area: &Area<'_>, n: usize) -> u64 {
    let tcb = area.tcb.cast::<u64>();
    // SAFETY: The tests ask for the first six words of the TCB.
    unsafe { tcb.add(n).read() }
}

/// Whether an area has the vector without entries.
fn is_empty(area: &Area<'_>) -> bool {
    // SAFETY: The area is there.
    area.registry.is_empty(unsafe { AreaRef::new(area.tcb) }.dtv())
}

/// `tdata` followed by zeroes.
fn initial(tdata: &[u8], size: usize) -> Vec<u8> {
    let mut block = tdata.to_vec();
    block.resize(size, 0);
    block
}

/// The first bytes of an image, none of which is zero.
fn image(len: usize) -> &'static [u8] {
    static BYTES: [u8; 10_000] = {
        let mut bytes = [0; 10_000];
        let mut at = 0;
        while at < bytes.len() {
            bytes[at] = (at % 255) as u8 + 1;
            at += 1;
        }
        bytes
    };
    &BYTES[..len]
}

fn empty(surplus: usize) -> Registry {
    Registry::new(Template::EMPTY, surplus).unwrap()
}

#[test]
fn the_memory_of_ended_tasks_is_used_again_until_it_is_trimmed() {
    let registry = empty(64);
    let area = registry.new_area(1).unwrap();
    let (tp, dynamic) = (area.thread_pointer(), registry.add_dynamic(&[5], 1, 1).unwrap());
    scribble(&area, TpOffset::below(64), 64);
    area.prepare(dynamic.module()).unwrap();
    drop(area);
    let module = registry.reserve(64, 1).unwrap().publish(&[3]).unwrap();
    let area = registry.new_area(2).unwrap();
    assert_eq!(area.thread_pointer(), tp);
    assert_eq!(bytes(&area, module.offset(), 64), initial(&[3], 64));
    assert_eq!((tcb_word(&area, 0), tcb_word(&area, 5)), (tp.address(), 2));
    assert!(is_empty(&area), "no block of the former task");
    let more = [(); SLOTS + 3].map(|()| registry.new_area(0).unwrap());
    drop((area, more));
    assert_eq!((registry.live_areas(), registry.trim(), registry.trim()), (0, SLOTS, 0));
}

#[test]
fn the_tcb_has_the_words_the_abi_asks_for() {
    let registry = empty(0);
    let area = registry.new_area(0x1234_5678_9abc_de00).unwrap();
    let tp = area.thread_pointer();
    assert_eq!(tcb_word(&area, 0), tp.address());
    assert_ne!(tcb_word(&area, 1), 0);
    assert_eq!(tcb_word(&area, 0x28 / 8), 0x1234_5678_9abc_de00);
}

#[test]
fn an_existing_area_sees_the_tdata_of_a_later_module() {
    let registry = empty(4096);
    let area = registry.new_area(0).unwrap();
    let reserved = registry.reserve(24, 8).unwrap();
    let offset = reserved.offset();
    scribble(&area, offset, 24);
    let published = reserved.publish(b"tdata").unwrap();
    assert_eq!(published.offset(), offset);
    assert_eq!(bytes(&area, offset, 24), initial(b"tdata", 24));
}

#[test]
fn a_new_area_starts_with_the_blocks_of_all_published_modules() {
    let registry = empty(4096);
    let first = registry.reserve(8, 8).unwrap().publish(&[1; 8]).unwrap();
    let withdrawn = registry.reserve(8, 8).unwrap().publish(&[2; 8]).unwrap();
    let third = registry.reserve(3, 1).unwrap().publish(&[3]).unwrap();
    drop(withdrawn);
    let area = registry.new_area(0).unwrap();
    assert_eq!(bytes(&area, first.offset(), 8), [1; 8]);
    assert_eq!(bytes(&area, third.offset(), 3), [3, 0, 0]);
}

#[test]
fn publishing_leaves_other_modules_alone() {
    let registry = empty(4096);
    let area = registry.new_area(0).unwrap();
    let first = registry.reserve(8, 8).unwrap().publish(&[1; 8]).unwrap();
    scribble(&area, first.offset(), 8);
    let _second = registry.reserve(8, 8).unwrap().publish(&[2; 8]).unwrap();
    assert_eq!(bytes(&area, first.offset(), 8), [0xa5; 8]);
}

#[test]
fn the_registry_keeps_its_own_copy_of_an_image() {
    let registry = empty(64);
    let mut tdata = Box::new([7u8; 4]);
    let published = registry.reserve(4, 4).unwrap().publish(&tdata[..]).unwrap();
    tdata.fill(0);
    drop(tdata);
    assert_eq!(bytes(&registry.new_area(0).unwrap(), published.offset(), 4), [7; 4]);
}

#[test]
fn dropping_a_reservation_or_a_publication_gives_the_space_back() {
    let registry = empty(64);
    let all = registry.reserve(64, 1).unwrap();
    assert_eq!(registry.surplus_free(), 0);
    drop(all);
    let [low, middle, high] = [16, 32, 16].map(|size| registry.reserve(size, 1).unwrap());
    let middle = middle.publish(&[1]).unwrap();
    assert_eq!(registry.surplus_free(), 0);
    drop((low, high));
    assert_eq!(registry.surplus_free(), 32);
    drop(middle);
    assert_eq!(registry.reserve(64, 1).unwrap().offset().get(), -64);
    assert_eq!(registry.surplus_free(), 64);
}

#[test]
fn an_exhausted_surplus_is_an_error_with_numbers() {
    let registry = empty(100);
    let _taken = registry.reserve(40, 1).unwrap();
    let error = registry.reserve(61, 1).unwrap_err();
    let expected = ReserveError::SurplusExhausted { needed: 61, align: 1, free: 60, largest: 60 };
    assert_eq!(error, expected);
    assert_eq!(
        format!("{error}"),
        "TLS surplus exhausted: 61 bytes aligned to 1 needed, 60 free, 60 of them in one piece"
    );
    assert!(registry.reserve(60, 1).is_ok());
}

#[test]
fn bad_alignments_are_refused() {
    let registry = empty(10_000);
    assert_eq!(registry.reserve(8, 24).unwrap_err(), ReserveError::BadAlignment(24));
    let expected = ReserveError::AlignmentTooLarge { needed: 8192, area: 4096 };
    assert_eq!(registry.reserve(8, 8192).unwrap_err(), expected);
    assert!(registry.reserve(8, 4096).is_ok());
    assert!(registry.reserve(8, 0).is_ok());
}

#[test]
fn an_image_longer_than_its_block_is_refused_and_the_space_comes_back() {
    let registry = empty(64);
    let reserved = registry.reserve(4, 4).unwrap();
    let error = reserved.publish(&[0; 5]).unwrap_err();
    assert_eq!(error, PublishError::ImageTooLarge { image: 5, size: 4 });
    assert_eq!(registry.surplus_free(), 64);
}

#[test]
fn a_module_without_bytes_needs_no_surplus() {
    let registry = empty(0);
    let published = registry.reserve(0, 16).unwrap().publish(&[]).unwrap();
    assert_eq!(published.offset().get(), 0);
    let _area = registry.new_area(0).unwrap();
}

#[test]
fn areas_leave_the_list_in_any_order() {
    let registry = empty(64);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut areas = [(); 3].map(|()| registry.new_area(0).ok());
        assert_eq!(registry.live_areas(), 3);
        for (gone, index) in order.into_iter().enumerate() {
            areas[index] = None;
            assert_eq!(registry.live_areas(), 2 - gone);
            let published = registry.reserve(4, 4).unwrap().publish(&[9; 4]).unwrap();
            for area in areas.iter().flatten() {
                assert_eq!(bytes(area, published.offset(), 4), [9; 4]);
                scribble(area, published.offset(), 4);
            }
        }
    }
}

#[test]
fn areas_and_modules_may_come_and_go_on_many_threads() {
    let registry = empty(4096);
    let resident = registry.new_area(0).unwrap();
    thread::scope(|scope| {
        for n in 1..=4u8 {
            let (registry, resident) = (&registry, &resident);
            scope.spawn(move || {
                for round in 0..2000 {
                    let published = registry.reserve(64, 8).unwrap().publish(&[n; 64]).unwrap();
                    let mut area = registry.new_area(0).unwrap();
                    assert_eq!(bytes(&area, published.offset(), 64), [n; 64]);
                    assert_eq!(bytes(resident, published.offset(), 64), [n; 64]);
                    // Enough numbers at times that vectors grow under way.
                    let count = if round % 50 == 0 { 40 } else { 2 };
                    let dynamic =
                        (0..count).map(|_| registry.add_dynamic(&[n; 8], 16, 64).unwrap());
                    let dynamic: Vec<_> = dynamic.collect();
                    for module in &dynamic {
                        for area in [&area, resident] {
                            let start = area.prepare(module.module()).unwrap();
                            // SAFETY: The block's size, and no task has it.
                            let block = unsafe { core::slice::from_raw_parts(start, 16) };
                            assert_eq!(block, initial(&[n; 8], 16));
                        }
                        area = registry.new_area(0).unwrap();
                        assert_eq!(bytes(&area, published.offset(), 64), [n; 64]);
                    }
                }
            });
        }
    });
    assert_eq!((registry.live_areas(), registry.surplus_free()), (1, 4096));
    assert_eq!(registry.modules(), 0);
    drop(resident);
}

#[test]
fn errors_say_what_failed_with_the_numbers() {
    let area = AreaError::OutOfMemory { size: 8264, align: 4096 };
    assert_eq!(format!("{area}"), "no memory for a TLS area of 8264 bytes aligned to 4096");
    assert_eq!(format!("{OutOfMemory}"), "no memory to record a thread-local destructor");
    let alignment = ReserveError::AlignmentTooLarge { needed: 8192, area: 4096 };
    assert_eq!(format!("{alignment}"), "TLS alignment 8192 in areas aligned to 4096");
}

/// Checks one area of a kernel with such a segment, byte by byte.
fn check_kernel_block(image_len: usize, size: usize, align: usize, address: u64, surplus: usize) {
    let template = Template::new(image(image_len), size, align).unwrap().starting_at(address);
    let registry = Registry::new(template, surplus).unwrap();
    let area = registry.new_area(u64::MAX).unwrap();
    let tp = area.thread_pointer();
    let block = tp.block(registry.kernel_offset());
    let start = block.addr() as u64;
    // Variables are aligned: the block is as far past a multiple as the segment was, …
    assert_eq!(start % align as u64, address % align as u64);
    // … and TP is the segment's end, rounded up.
    let end = (address + size as u64).next_multiple_of(align as u64);
    assert_eq!(tp.address() - start, end - address);
    // SAFETY: The block lies in the area, and `new_area` filled it.
    let block = unsafe { core::slice::from_raw_parts(block, size) };
    let (tdata, tbss) = block.split_at(image_len);
    assert_eq!(tdata, image(image_len));
    assert!(tbss.iter().all(|byte| *byte == 0));
    assert_eq!((tcb_word(&area, 0), tcb_word(&area, 5)), (tp.address(), u64::MAX));
}

#[test]
fn the_kernel_block_is_right_for_every_alignment_to_4096_and_size_to_10000() {
    for align in (0..=12).map(|log| 1 << log) {
        for size in 0..=10_000 {
            check_kernel_block(size / 3, size, align, 0x20_0000, 0);
        }
    }
}

proptest! {
    #[test]
    fn the_kernel_block_is_right_wherever_its_segment_starts(
        log in 0u32..=12,
        size in 0usize..=10_000,
        share in 0usize..=100,
        address in any::<u32>(),
        surplus in 0usize..=5_000,
    ) {
        check_kernel_block(size * share / 100, size, 1 << log, address.into(), surplus);
    }

    #[test]
    fn later_modules_are_aligned_initialised_and_apart_in_every_area(
        kernel_size in 0usize..=300,
        kernel_log in 0u32..=8,
        modules in prop::collection::vec((1usize..=500, 0u32..=12, 0usize..=100), 1..8),
        split in 0usize..8,
    ) {
        let kernel = Template::new(&[], kernel_size, 1 << kernel_log).unwrap();
        let registry = Registry::new(kernel, 80_000).unwrap();
        let before = registry.new_area(1).unwrap();
        let mut published = vec![];
        let mut between = None;
        for (n, &(size, log, share)) in modules.iter().enumerate() {
            if n == split {
                between = Some(registry.new_area(2).unwrap());
            }
            let tdata = image(size * share / 100);
            let module = registry.reserve(size, 1 << log).unwrap().publish(tdata).unwrap();
            published.push((module, size, 1u64 << log, tdata));
        }
        let after = registry.new_area(3).unwrap();
        for area in [Some(&before), between.as_ref(), Some(&after)].into_iter().flatten() {
            for (module, size, align, tdata) in &published {
                let start = area.thread_pointer().block(module.offset()).addr() as u64;
                prop_assert_eq!(start % align, 0);
                prop_assert_eq!(bytes(area, module.offset(), *size), initial(tdata, *size));
            }
            prop_assert_eq!(bytes(area, registry.kernel_offset(), kernel_size), vec![0; kernel_size]);
            prop_assert_eq!(tcb_word(area, 0), area.thread_pointer().address());
        }
        let mut extents: Vec<_> = published
            .iter()
            .map(|(module, size, ..)| (module.offset().get(), *size as i32))
            .collect();
        extents.sort_unstable();
        extents.push((registry.kernel_offset().get(), kernel_size as i32));
        for pair in extents.windows(2) {
            prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:?} overlaps", pair);
        }
        drop(published);
        prop_assert_eq!(registry.surplus_free(), 80_000);
    }
}
