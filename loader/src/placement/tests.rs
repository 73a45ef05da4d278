use super::*;
use crate::got::Slot;
use crate::sample::{self, Sample};
use crate::text::Text;
use crate::unit::FileName;
use proptest::prelude::*;

fn section(name: &str, flags: u64, data: &[u8], align: u64) -> Sample {
    sample::data(name, data).flags(flags).align(align)
}

fn zeroed(name: &str, flags: u64, size: u64, align: u64) -> Sample {
    sample::zeroed(name, size).flags(flags).align(align)
}

/// Where the sections of one file go: their groups, and bytes of the region or of the TLS block.
#[derive(Debug)]
struct Placed {
    layout: Layout,
    places: Vec<(Group, Range<usize>)>,
}

impl core::ops::Deref for Placed {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

fn lay_out_with(sections: &[Sample], slots: &Slots) -> Result<Placed, Cause> {
    let file = sample::object(sections);
    let mut unit = Unit::default();
    let place_all = |unit: &mut Unit<'_>| {
        let eh_frame = EhFrame::cut(unit)?;
        let layout = place("set", unit, &eh_frame, slots)?;
        Ok((layout, eh_frame))
    };
    let added = unit.add(FileName { file: "file", member: None }, &file);
    let (layout, eh_frame) =
        added.and_then(|()| place_all(&mut unit)).map_err(LoadError::into_cause)?;
    // Without section 0 and the table of names.
    let places = unit.sections().filter(|(_, index, _)| (1..=sections.len()).contains(index));
    let places = places.map(|(_, index, place)| {
        let size = match place.group {
            Group::EhFrame => eh_frame.len(index),
            _ => sections[index - 1].size,
        };
        let start = if place.group.is_loaded() { layout.start(place) } else { 0 };
        (place.group, start..start + size as usize)
    });
    Ok(Placed { places: places.collect(), layout })
}

fn lay_out(sections: Vec<Sample>) -> Result<Placed, Cause> {
    lay_out_with(&sections, &Slots::default())
}

const EXEC: u64 = elf::SHF_EXECINSTR.0;
const WRITE: u64 = elf::SHF_WRITE.0;
const TLS: u64 = elf::SHF_TLS.0 | WRITE;

#[test]
fn an_empty_object_has_one_page_and_no_parts() {
    let layout = lay_out(vec![]).unwrap();
    assert_eq!(layout.size, PAGE);
    assert!(layout.text.is_empty() && layout.rodata.is_empty() && layout.data.is_empty());
    assert!(layout.eh_frame.is_empty());
    assert_eq!(layout.tls, TlsBlock { size: 0, align: 1, image: 0 });
}

#[test]
fn sections_go_where_their_permissions_are() {
    let layout = lay_out(vec![
        section(".data", WRITE, &[1; 8], 8),
        section(".text.a", EXEC, &[2; 3], 16),
        section(".rodata", 0, &[3; 5], 4),
        zeroed(".bss", WRITE, 100, 32),
        section(".text.b", EXEC, &[4; 7], 16),
        section(".data.rel.ro.x", WRITE, &[5; 8], 8),
        section(".gcc_except_table.a", 0, &[6; 6], 4),
        section(".gcc_except_table.b", 0, &[7; 6], 4),
    ])
    .unwrap();
    let page = PAGE;
    assert_eq!(layout.places[1].1, 0..3);
    assert_eq!(layout.places[4].1, 16..23);
    assert_eq!((layout.text.start, layout.rodata.start, layout.data.start), (0, page, 2 * page));
    assert_eq!(layout.except_table, page..page + 14);
    assert_eq!(layout.places[2].1, page + 16..page + 21);
    assert_eq!(layout.places[5].1, page + 24..page + 32);
    assert_eq!(layout.places[0].1, 2 * page..2 * page + 8);
    assert_eq!(layout.places[3].1, 2 * page + 32..2 * page + 132);
    assert_eq!(layout.size, 3 * page);
}

#[test]
fn sections_that_do_not_belong_in_memory_are_skipped() {
    let debug = Sample { flags: 0, ..section(".debug_info", 0, &[1; 9], 1) };
    let excluded = section(".llvm.x", elf::SHF_EXCLUDE.0, &[1; 9], 1);
    let layout = lay_out(vec![debug, excluded]).unwrap();
    assert!(layout.places.iter().all(|(group, _)| *group == Group::Skipped));
}

#[test]
fn eh_frame_is_one_chain_with_one_terminator() {
    const ENTRY: &[u8] = &[8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const ENDED: &[u8] = &[4, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0];
    let layout = lay_out(vec![
        section(".eh_frame", 0, ENTRY, 8),
        section(".eh_frame", 0, ENDED, 8),
        section(".eh_frame", WRITE, ENTRY, 8),
        section(".rodata", 0, &[1], 1),
    ])
    .unwrap();
    let places: Vec<_> = layout.places[..3].iter().map(|(_, range)| range.clone()).collect();
    assert_eq!(places, [0..12, 12..20, 20..32]);
    assert_eq!(layout.eh_frame, 0..36);
    assert_eq!(layout.places[3].1, 36..37);
}

#[test]
fn a_broken_eh_frame_chain_is_an_error_at_its_offset() {
    let cases: [(&'static [u8], u64); 5] = [
        (&[8, 0, 0, 0, 1], 0),
        (&[4, 0, 0, 0, 1, 2, 3, 4, 1, 0], 8),
        (&[0, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4], 0),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0),
        (&[0xff, 0xff, 0xff, 0xff, 1, 0], 0),
    ];
    for (data, offset) in cases {
        let error = lay_out(vec![section(".eh_frame", 0, data, 8)]).unwrap_err();
        assert_eq!(error, Cause::BadUnwindTable { section: ".eh_frame".into(), offset });
    }
    let long = &[0xff, 0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(lay_out(vec![section(".eh_frame", 0, long, 8)]).unwrap().eh_frame, 0..20);
}

#[test]
fn a_tls_block_is_initial_values_then_zeroes() {
    let layout = lay_out(vec![
        zeroed(".tbss.a", TLS, 5, 1),
        section(".tdata.a", TLS, &[1; 3], 1),
        zeroed(".tbss.b", TLS, 64, 64),
        section(".tdata.b", TLS, &[2; 8], 8),
    ])
    .unwrap();
    let (image, zeroes) = (Group::TlsImage, Group::TlsZeroed);
    let expected = [(zeroes, 64..69), (image, 0..3), (zeroes, 128..192), (image, 8..16)];
    assert_eq!(layout.places, expected);
    assert_eq!(layout.tls, TlsBlock { size: 192, align: 64, image: 16 });
    assert_eq!(layout.size, PAGE);
}

#[test]
fn what_cannot_be_placed_says_why() {
    let name = Text::from("x");
    let error = |section| lay_out(vec![section]).unwrap_err();
    let align = |align| Cause::Alignment { section: "x".into(), align, max: 4096 };
    assert_eq!(error(section("x", 0, &[], 3)), align(3));
    assert_eq!(error(section("x", 0, &[], 8192)), align(8192));
    assert_eq!(error(section("x", 0, &[], u64::MAX)), align(u64::MAX));
    assert_eq!(
        error(section("x", WRITE | EXEC, &[], 1)),
        Cause::WritableCode { section: name.clone() }
    );
    assert_eq!(
        error(section("x", elf::SHF_COMPRESSED.0, &[], 1)),
        Cause::Compressed { section: name.clone() }
    );
    for name in [".init", ".fini"] {
        let expected = Cause::Constructors { section: name.into(), size: 8 };
        assert_eq!(error(section(name, EXEC, &[0; 8], 8)), expected);
        assert!(lay_out(vec![section(name, EXEC, &[], 8)]).is_ok());
    }
    for name in [".init_array", ".fini_array.00100", ".ctors", ".dtors.1"] {
        let layout = lay_out(vec![section(name, WRITE, &[0; 8], 8)]).unwrap();
        assert_eq!(layout.places[0], (Group::Functions, 0..8));
    }
    let needed = MAX_SIZE + 1;
    let too_large = Cause::TooLarge { needed, max: MAX_SIZE };
    assert_eq!(error(zeroed("x", WRITE, needed, 1)), too_large);
    assert_eq!(
        error(zeroed("x", WRITE, u64::MAX, 1)),
        Cause::TooLarge { needed: u64::MAX, max: MAX_SIZE }
    );
    assert_eq!(error(zeroed("x", TLS, needed, 1)), too_large);
    assert!(lay_out(vec![zeroed("x", WRITE, MAX_SIZE, 4096)]).is_ok());
}

#[test]
fn stubs_end_the_text_and_slots_end_the_read_only_data() {
    let sections = [section(".text", EXEC, &[1; 3], 1), section(".rodata", 0, &[1; 3], 1)];
    let (mut slots, mut numbers) = (Slots::default(), [None; 3]);
    slots.add_plt(&mut numbers[0]).unwrap();
    slots.add_plt(&mut numbers[1]).unwrap();
    slots.add_got(Slot::Address, &mut numbers[2]).unwrap();
    let layout = lay_out_with(&sections, &slots).unwrap();
    assert_eq!((layout.text.clone(), layout.plt), (0..24, 8));
    assert_eq!((layout.rodata.clone(), layout.got), (PAGE..PAGE + 32, PAGE + 8));
    assert_eq!(layout.plt_stub(0x10000, 1), 0x10010);
    assert_eq!(layout.got_word(0x10000, 2), 0x10000 + PAGE as u64 + 24);
}

/// Sections of every kind with any size and alignment.
fn sections() -> impl Strategy<Value = Vec<Sample>> {
    let kinds = prop::sample::select(vec![0, EXEC, WRITE, TLS]);
    let one = (kinds, 0u64..10_000, 0u32..=12, any::<bool>());
    prop::collection::vec(one, 0..40).prop_map(|list| {
        let made = list.into_iter().map(|(flags, size, align, zero)| {
            let kind = if zero { elf::SHT_NOBITS } else { elf::SHT_PROGBITS };
            let sample = zeroed("x", flags, size, 1 << align);
            let data = if zero { vec![] } else { vec![1; size as usize] };
            Sample { kind, data, ..sample }
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn sections_never_overlap_and_are_aligned(sections in sections()) {
        let layout = lay_out_with(&sections, &Slots::default()).unwrap();
        let mut memory = Vec::new();
        let mut tls = Vec::new();
        for (section, (_, range)) in sections.iter().zip(&layout.places) {
            prop_assert!((range.start as u64).is_multiple_of(section.align));
            let is = |flag| elf::SectionFlags(section.flags).contains(flag);
            let part = if is(elf::SHF_TLS) {
                0..layout.tls.size
            } else if is(elf::SHF_EXECINSTR) {
                layout.text.clone()
            } else if is(elf::SHF_WRITE) {
                layout.data.clone()
            } else {
                layout.rodata.clone()
            };
            prop_assert!(part.start <= range.start && range.end <= part.end);
            if !range.is_empty() {
                if is(elf::SHF_TLS) { &mut tls } else { &mut memory }.push(range.clone());
            }
        }
        for ranges in [&mut memory, &mut tls] {
            ranges.sort_by_key(|range| range.start);
            prop_assert!(ranges.is_sorted_by(|a, b| a.end <= b.start));
        }
        prop_assert!(layout.text.end <= layout.rodata.start && layout.rodata.end <= layout.data.start);
        for part in [layout.text.start, layout.rodata.start, layout.data.start, layout.size] {
            prop_assert!(part.is_multiple_of(PAGE));
        }
        prop_assert!(layout.data.end <= layout.size && layout.tls.image <= layout.tls.size);
    }
}
