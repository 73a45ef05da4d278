//! Every kind of broken object gives one precise error and leaves nothing behind.

use crate::compile::{self, RUST_FLAGS};
use crate::memory::HostMemory;
use crate::patch::{Patch, SHSTRNDX, header};
use crate::program::{Program, SURPLUS, registry};
use std::sync::atomic::Ordering;
use unspool_loader::{Cause, Code, Field, Loader, MapError, Part, Problem, RelocationType};
use unspool_tls::ReserveError;

const SOURCE: &str = r#"
use core::cell::Cell;
#[thread_local] pub static LOCAL: Cell<u32> = Cell::new(7);
#[thread_local] #[unsafe(no_mangle)] pub static GLOBAL: Cell<u32> = Cell::new(8);
static TABLE: [extern "C" fn() -> u32; 2] = [first, second];
#[unsafe(no_mangle)] pub static mut ZEROED: [u8; 64] = [0; 64];
#[unsafe(no_mangle)] pub extern "C" fn first() -> u32 { LOCAL.get() }
#[unsafe(no_mangle)] pub extern "C" fn second() -> u32 { GLOBAL.get() }
#[unsafe(no_mangle)] pub extern "C" fn pick(index: usize) -> u32 { TABLE[index]() }
"#;

const PIC: &[&str] = RUST_FLAGS[3];

/// What is wrong with `file`; checks that nothing of it stays.
fn error_of(file: &[u8], program: &Program) -> Cause {
    let (memory, tls) = (HostMemory::default(), registry());
    let loader = Loader::new(&memory, program, &tls);
    let error = match loader.load("bad", file) {
        Err(error) => error,
        Ok(object) => panic!("loaded {object:?}"),
    };
    assert_eq!(error.object(), "bad");
    assert_eq!(loader.objects().count(), 0);
    assert_eq!(loader.symbol("first"), None);
    assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
    let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::Relaxed);
    assert_eq!(count(&memory.maps), count(&memory.unmaps));
    assert_eq!(error.to_string(), format!("bad: {}", error.cause()));
    error.into_cause()
}

fn error(file: &[u8]) -> Cause {
    error_of(file, &Program::full())
}

fn good() -> Patch {
    Patch(compile::rust(SOURCE, PIC))
}

#[test]
fn a_truncated_file_says_what_is_missing_wherever_it_ends() {
    let Patch(file) = good();
    let part = Part::FileHeader;
    assert_eq!(error(&[]), Cause::Truncated { part, end: 64, len: 0 });
    assert_eq!(error(&file[..63]), Cause::Truncated { part, end: 64, len: 63 });
    for len in (64..file.len()).step_by(64).chain([file.len() - 1]) {
        match error(&file[..len]) {
            Cause::Truncated { part, end, len: found } => {
                assert_eq!((found, end > found), (len as u64, true));
                assert_ne!(part, Part::FileHeader);
            }
            error => panic!("{len}: {error}"),
        }
    }
}

#[test]
fn what_is_not_a_relocatable_x86_64_object_says_what_it_is() {
    let file = good();
    assert_eq!(error(&file.with(0, *b"\x7fELG")), Cause::NotElf(*b"\x7fELG"));
    assert_eq!(error(b"####"), Cause::NotElf(*b"####"));
    assert_eq!(error(&[b'#'; 100]), Cause::NotElf(*b"####"));
    assert_eq!(error(&file.with(4, [1])), Cause::WrongClass(1));
    assert_eq!(error(&file.with(5, [2])), Cause::WrongEncoding(2));
    assert_eq!(error(&file.with(6, [0])), Cause::WrongVersion(0));
    assert_eq!(error(&file.with(16, 2u16.to_le_bytes())), Cause::WrongType(2));
    assert_eq!(error(&file.with(18, 183u16.to_le_bytes())), Cause::WrongMachine(183));
    let program = std::fs::read("/proc/self/exe").unwrap();
    assert!(matches!(error(&program), Cause::WrongType(2 | 3)));
}

#[test]
fn section_headers_are_checked() {
    let file = good();
    assert_eq!(error(&file.with(40, 0u64.to_le_bytes())), Cause::NoSections);
    let (part, len) = (Part::SectionHeaders, file.0.len() as u64);
    let wrong = Cause::WrongEntrySize { part, expected: 64, found: 63 };
    assert_eq!(error(&file.with(58, 63u16.to_le_bytes())), wrong);
    let beyond = Cause::Truncated { part, end: u64::MAX, len };
    assert_eq!(error(&file.with(40, (u64::MAX - 5).to_le_bytes())), beyond);
    // With e_shnum 0 the number stands in section 0, where it is 0.
    assert_eq!(error(&file.with(60, 0u16.to_le_bytes())), Cause::NoSections);
    let index = file.count() as u32;
    let names = Cause::BadIndex { field: Field::NamesOfSections, index };
    assert_eq!(error(&file.with(SHSTRNDX, (index as u16).to_le_bytes())), names);

    let text = file.section(".text.pick");
    let end = Cause::Truncated { part: Part::Section(text as u32), end: len + 1, len };
    let size = len + 1 - file.u64(file.field(".text.pick", header::OFFSET));
    assert_eq!(error(&file.with(file.field(".text.pick", header::SIZE), size.to_le_bytes())), end);
    let name = Cause::BadName { field: Field::SectionName(text as u32), offset: u32::MAX };
    assert_eq!(error(&file.with(file.header(text), [0xff; 4])), name);
}

#[test]
fn sections_that_cannot_be_placed_say_why() {
    let file = good();
    let text = || ".text.pick".into();
    let align = |align: u64| {
        let error = error(&file.with(file.field(".text.pick", header::ALIGN), align.to_le_bytes()));
        assert_eq!(error, Cause::Alignment { section: text(), align, max: 4096 });
    };
    align(24);
    align(1 << 13);
    align(1 << 63);
    align(u64::MAX);
    let flags = file.field(".text.pick", header::FLAGS);
    let write = file.with(flags, (file.u64(flags) | 1).to_le_bytes());
    assert_eq!(error(&write), Cause::WritableCode { section: text() });
    let compressed = file.with(flags, (file.u64(flags) | 1 << 11).to_le_bytes());
    assert_eq!(error(&compressed), Cause::Compressed { section: text() });

    let entry = file.contents(".eh_frame").start;
    let error = error(&file.with(entry, 0x1000_0000u32.to_le_bytes()));
    assert_eq!(error, Cause::BadUnwindTable { section: ".eh_frame".into(), offset: 0 });
}

#[test]
fn links_between_sections_are_checked() {
    let file = good();
    let rela = file.section(".rela.text.pick") as u32;
    let link =
        |value: u32| file.with(file.header(rela as usize) + header::LINK, value.to_le_bytes());
    let info =
        |value: u32| file.with(file.header(rela as usize) + header::INFO, value.to_le_bytes());
    for index in [0, 1, file.count() as u32, u32::MAX] {
        let bad = Cause::BadIndex { field: Field::SectionLink(rela), index };
        assert_eq!(error(&link(index)), bad);
    }
    for index in [0, file.count() as u32, u32::MAX] {
        let bad = Cause::BadIndex { field: Field::SectionInfo(rela), index };
        assert_eq!(error(&info(index)), bad);
    }
    let symtab = file.section(".symtab") as u32;
    let names = file.with(file.field(".symtab", header::LINK), symtab.to_le_bytes());
    let bad = Cause::BadIndex { field: Field::SectionLink(symtab), index: symtab };
    assert_eq!(error(&names), bad);
    // A table whose size is not a multiple of its entries'.
    let size = file.field(".symtab", header::SIZE);
    let (part, found) = (Part::Section(symtab), file.u64(size) - 1);
    let ragged = Cause::WrongEntrySize { part, expected: 24, found };
    assert_eq!(error(&file.with(size, found.to_le_bytes())), ragged);
    // SHT_REL, and a second SHT_SYMTAB.
    let kind = file.field(".rela.text.pick", header::TYPE);
    let section = ".rela.text.pick".into();
    let rel = Cause::RelocationsWithoutAddend { section };
    assert_eq!(error(&file.with(kind, 9u32.to_le_bytes())), rel);
    let second = error(&file.with(kind, 2u32.to_le_bytes()));
    assert!(matches!(second, Cause::SecondSymbolTable { section } if section == rela.max(symtab)));
}

#[test]
fn symbols_are_checked() {
    let file = good();
    let table = file.contents(".symtab");
    // The last symbols are global functions.
    let last = (table.len() / 24 - 1) as u32;
    let at = table.end - 24;
    let offset = u32::MAX;
    let name = Cause::BadName { field: Field::SymbolName(last), offset };
    assert_eq!(error(&file.with(at, offset.to_le_bytes())), name);
    for section in [file.count() as u16, 0xfeff, 0xff00, 0xffff] {
        let (field, index) = (Field::SymbolSection(last), section.into());
        let error = error(&file.with(at + 6, section.to_le_bytes()));
        assert_eq!(error, Cause::BadIndex { field, index });
    }
    let mut defined = (0..=last as usize).map(|symbol| table.start + symbol * 24);
    let defined = defined.rfind(|&at| file.u16(at + 6) != 0).unwrap();
    let outside = error(&file.with(defined + 8, 0x1_0000u64.to_le_bytes()));
    assert!(matches!(outside, Cause::SymbolOutsideSection { value: 0x1_0000, .. }), "{outside}");
}

#[test]
fn relocations_are_checked() {
    let file = good();
    let table = file.contents(".rela.text.pick");
    let section = file.section(".rela.text.pick") as u32;
    let info = table.start + 8;
    let no_symbol = Cause::BadIndex {
        field: Field::RelocationSymbol { section, entry: 0 },
        index: 0x7fff_ffff,
    };
    assert_eq!(error(&file.with(info + 4, 0x7fff_ffffu32.to_le_bytes())), no_symbol);

    let kind = |number: u32| error(&file.with(info, number.to_le_bytes()));
    for number in [5, 8, 37, 39, 51, 99, u32::MAX] {
        match kind(number) {
            Cause::Relocation { section, offset, kind, problem, .. } => {
                assert_eq!(&*section, ".text.pick");
                assert_eq!(offset, file.u64(table.start));
                assert_eq!((kind, problem), (RelocationType(number), Problem::UnknownType));
            }
            error => panic!("{error}"),
        }
    }
    // TPOFF32 against what is not thread-local.
    let problem = |error| match error {
        Cause::Relocation { problem, .. } => problem,
        error => panic!("{error}"),
    };
    assert_eq!(problem(kind(23)), Problem::NotThreadLocal);
    let far = error(&file.with(table.start, u64::MAX.to_le_bytes()));
    assert!(matches!(problem(far), Problem::OutsideSection { .. }));
    let large = error(&file.with(table.start + 16, i64::MAX.to_le_bytes()));
    assert!(matches!(problem(large), Problem::Overflow { .. }));
}

#[test]
fn tls_sequences_are_checked() {
    let file = good();
    let (table, code) = (file.contents(".rela.text.second"), file.contents(".text.second"));
    let problem = |bytes: &[u8]| match error(bytes) {
        Cause::Relocation { kind, problem, .. } => (kind.to_string(), problem),
        error => panic!("{error}"),
    };
    let relocation = (table.start..table.end).step_by(24).find(|&at| file.u32(at + 8) == 19);
    let relocation = relocation.expect("a general dynamic access");
    let call = relocation + 24;
    let missing = ("R_X86_64_TLSGD".into(), Problem::MissingTlsCall);
    assert_eq!(problem(&file.with(call + 8, 23u32.to_le_bytes())), missing);
    assert_eq!(problem(&file.with(call, 0u64.to_le_bytes())), missing);
    assert_eq!(problem(&file.with(call + 12, 1u32.to_le_bytes())), missing);
    let place = code.start + file.u64(relocation) as usize;
    let found = {
        let mut bytes = file.0[place - 4..place + 12].to_vec();
        bytes[3] = 0x35;
        Code::new(&bytes)
    };
    let unexpected = ("R_X86_64_TLSGD".into(), Problem::UnexpectedCode { found });
    assert_eq!(problem(&file.with(place - 1, [0x35])), unexpected);
}

#[test]
fn all_undefined_symbols_are_listed_at_once() {
    let source = r#"
        unsafe extern "C" { fn zeta(); fn alpha(); fn memcpy(); static BETA: u32;
            #[thread_local] static GAMMA: u32; }
        #[unsafe(no_mangle)] pub unsafe extern "C" fn call() -> u32 {
            unsafe { zeta(); alpha(); memcpy(); BETA + GAMMA }
        }"#;
    for flags in RUST_FLAGS {
        let file = compile::rust(source, flags);
        let program = Program::bare().with("rust_eh_personality", 1);
        let Cause::Undefined(symbols) = error_of(&file, &program) else { panic!() };
        let mut own: Vec<_> = symbols.iter().filter(|name| !name.starts_with("_R")).collect();
        own.sort();
        let expected = ["BETA", "GAMMA", "alpha", "zeta"];
        assert_eq!(own.iter().map(|name| &***name).collect::<Vec<_>>(), expected, "{flags:?}");
        let message = Cause::Undefined(vec!["a".into(), "b".into()]).to_string();
        assert_eq!(message, "2 undefined symbols: `a`, `b`");
    }
}

#[test]
fn tls_that_does_not_fit_says_how_much_is_needed_and_free() {
    let source = format!(
        "#[thread_local] #[unsafe(no_mangle)] pub static mut LARGE: [u8; {}] = [0; {}];
         #[unsafe(no_mangle)] pub extern \"C\" fn get() -> u8 {{ unsafe {{ LARGE[5] }} }}",
        SURPLUS + 1,
        SURPLUS + 1
    );
    let initial_exec: Vec<_> = PIC.iter().copied().chain(["-Ztls-model=initial-exec"]).collect();
    match error(&compile::rust(&source, &initial_exec)) {
        Cause::TlsReserve(ReserveError::SurplusExhausted { needed, free, .. }) => {
            assert_eq!((needed, free), (SURPLUS + 1, SURPLUS));
        }
        error => panic!("{error}"),
    }
}

#[test]
fn an_object_of_gigabytes_is_refused_before_anything_is_mapped() {
    let file = good();
    let size = file.field(".bss.ZEROED", header::SIZE);
    let huge = |bytes: u64| error(&file.with(size, bytes.to_le_bytes()));
    let max = 1 << 30;
    assert!(matches!(huge(1 << 31), Cause::TooLarge { needed, max: m } if needed > m && m == max));
    assert_eq!(huge(u64::MAX), Cause::TooLarge { needed: u64::MAX, max });
    // What the loader allows, the kernel may still refuse.
    let Cause::Map(MapError::Exhausted { size }) = huge(512 << 20) else { panic!() };
    assert!(size > 512 << 20);
}
