use super::*;
use crate::got::Slot;
use crate::text::Text;
use proptest::prelude::*;

const ALLOC: elf::SectionFlags = elf::SHF_ALLOC;

fn section(name: &'static str, flags: u64, data: &'static [u8], align: u64) -> Section<'static> {
    Section {
        name,
        name_at: 0,
        kind: elf::SHT_PROGBITS,
        flags: elf::SectionFlags(ALLOC.0 | flags),
        size: data.len() as u64,
        align,
        data,
    }
}

fn zeroed(name: &'static str, flags: u64, size: u64, align: u64) -> Section<'static> {
    Section { kind: elf::SHT_NOBITS, size, ..section(name, flags, &[], align) }
}

fn file(sections: Vec<Section<'static>>) -> Elf<'static> {
    Elf { section_names: "", symbol_names: "", sections, symbols: vec![], relocations: vec![] }
}

fn lay_out(sections: Vec<Section<'static>>) -> Result<Layout, LoadError> {
    let elf = file(sections);
    place(&elf, &classify(&elf)?, &Slots::new(0).unwrap())
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
    assert_eq!(layout.places[1], Place::Memory(0..3));
    assert_eq!(layout.places[4], Place::Memory(16..23));
    assert_eq!((layout.text.start, layout.rodata.start, layout.data.start), (0, page, 2 * page));
    assert_eq!(layout.except_table, page..page + 14);
    assert_eq!(layout.places[2], Place::Memory(page + 16..page + 21));
    assert_eq!(layout.places[5], Place::Memory(page + 24..page + 32));
    assert_eq!(layout.places[0], Place::Memory(2 * page..2 * page + 8));
    assert_eq!(layout.places[3], Place::Memory(2 * page + 32..2 * page + 132));
    assert_eq!(layout.size, 3 * page);
}

#[test]
fn sections_that_do_not_belong_in_memory_are_skipped() {
    let debug = Section { flags: elf::SectionFlags(0), ..section(".debug_info", 0, &[1; 9], 1) };
    let excluded = section(".llvm.x", elf::SHF_EXCLUDE.0, &[1; 9], 1);
    let layout = lay_out(vec![debug, excluded]).unwrap();
    assert_eq!(layout.places, [Place::Skipped, Place::Skipped]);
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
    assert_eq!(
        layout.places[..3],
        [Place::Memory(0..12), Place::Memory(12..20), Place::Memory(20..32)]
    );
    assert_eq!(layout.eh_frame, 0..36);
    assert_eq!(layout.places[3], Place::Memory(36..37));
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
        assert_eq!(error, LoadError::BadUnwindTable { section: ".eh_frame".into(), offset });
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
    assert_eq!(
        layout.places,
        [Place::Tls(16..21), Place::Tls(0..3), Place::Tls(64..128), Place::Tls(8..16)]
    );
    assert_eq!(layout.tls, TlsBlock { size: 128, align: 64, image: 16 });
    assert_eq!(layout.size, PAGE);
}

#[test]
fn what_cannot_be_placed_says_why() {
    let name = Text::from("x");
    let error = |section| lay_out(vec![section]).unwrap_err();
    let align = |align| LoadError::Alignment { section: "x".into(), align, max: 4096 };
    assert_eq!(error(section("x", 0, &[], 3)), align(3));
    assert_eq!(error(section("x", 0, &[], 8192)), align(8192));
    assert_eq!(error(section("x", 0, &[], u64::MAX)), align(u64::MAX));
    assert_eq!(
        error(section("x", WRITE | EXEC, &[], 1)),
        LoadError::WritableCode { section: name.clone() }
    );
    assert_eq!(
        error(section("x", elf::SHF_COMPRESSED.0, &[], 1)),
        LoadError::Compressed { section: name.clone() }
    );
    for name in [".init_array", ".fini_array.00100", ".ctors", ".dtors.1", ".init", ".fini"] {
        let expected = LoadError::Constructors { section: name.into(), size: 8 };
        assert_eq!(error(section(name, WRITE, &[0; 8], 8)), expected);
        assert!(lay_out(vec![section(name, WRITE, &[], 8)]).is_ok());
    }
    let needed = MAX_SIZE + 1;
    let too_large = LoadError::TooLarge { needed, max: MAX_SIZE };
    assert_eq!(error(zeroed("x", WRITE, needed, 1)), too_large);
    assert_eq!(
        error(zeroed("x", WRITE, u64::MAX, 1)),
        LoadError::TooLarge { needed: u64::MAX, max: MAX_SIZE }
    );
    assert_eq!(error(zeroed("x", TLS, needed, 1)), too_large);
    assert!(lay_out(vec![zeroed("x", WRITE, MAX_SIZE, 4096)]).is_ok());
}

#[test]
fn stubs_end_the_text_and_slots_end_the_read_only_data() {
    let elf = file(vec![section(".text", EXEC, &[1; 3], 1), section(".rodata", 0, &[1; 3], 1)]);
    let mut slots = Slots::new(3).unwrap();
    slots.add_plt(0).unwrap();
    slots.add_plt(1).unwrap();
    slots.add_got(Slot::Address, 2).unwrap();
    let layout = place(&elf, &classify(&elf).unwrap(), &slots).unwrap();
    assert_eq!((layout.text.clone(), layout.plt), (0..24, 8));
    assert_eq!((layout.rodata.clone(), layout.got), (PAGE..PAGE + 32, PAGE + 8));
    assert_eq!(layout.plt_stub(0x10000, 1), 0x10010);
    assert_eq!(layout.got_word(0x10000, 2), 0x10000 + PAGE as u64 + 24);
}

/// Sections of every kind with any size and alignment.
fn sections() -> impl Strategy<Value = Vec<Section<'static>>> {
    let kinds = prop::sample::select(vec![0, EXEC, WRITE, TLS]);
    let one = (kinds, 0u64..10_000, 0u32..=12, any::<bool>());
    prop::collection::vec(one, 0..40).prop_map(|list| {
        let made = list.into_iter().map(|(flags, size, align, zero)| {
            let kind = if zero { elf::SHT_NOBITS } else { elf::SHT_PROGBITS };
            Section { kind, ..zeroed("x", flags, size, 1 << align) }
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn sections_never_overlap_and_are_aligned(sections in sections()) {
        let elf = file(sections);
        let layout = place(&elf, &classify(&elf).unwrap(), &Slots::new(0).unwrap()).unwrap();
        let mut memory = Vec::new();
        let mut tls = Vec::new();
        for (section, place) in elf.sections.iter().zip(&layout.places) {
            let (Place::Memory(range) | Place::Tls(range)) = place else { continue };
            prop_assert_eq!(range.len() as u64, section.size);
            prop_assert!((range.start as u64).is_multiple_of(section.align));
            let is = |flag| section.flags.contains(flag);
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
