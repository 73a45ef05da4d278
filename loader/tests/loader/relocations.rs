//! Every type of relocation, written by hand: what it puts where, and that it says so when it does
//! not fit.

use crate::compile;
use crate::memory::HostMemory;
use crate::program::{Program, registry};
use crate::task;
use std::ptr::with_exposed_provenance;
use unspool_loader::{Cause, Loader, Object, Problem};
use unspool_tls::Registry;

extern "C" fn triple(x: u64) -> u64 {
    3 * x
}

fn assemble(source: &str) -> Option<Vec<u8>> {
    compile::gnu("gcc", source, "s", &[])
}

/// Memory from which nothing else is reached with 32 bits.
pub fn far() -> HostMemory {
    let mut memory = HostMemory::default();
    memory.far = true;
    memory
}

fn program() -> Program {
    Program::bare()
        .with("__tls_get_addr", unspool_tls::__tls_get_addr as *const () as u64)
        .with("triple", triple as *const () as u64)
        .with("tiny", 0x7f)
        .with("small", 0x8765)
        .with("low", 0x89ab_cdef)
        .with("high", 0xffff_ffff_8765_4321)
        .with_tls("others", -0x123450)
}

/// The number of `N` bytes at an address.
fn number<const N: usize>(address: u64) -> u64 {
    let from = with_exposed_provenance::<[u8; N]>(address as usize);
    let mut bytes = [0; 8];
    // SAFETY: the tests ask for words of loaded objects, and of what these point to.
    bytes[..N].copy_from_slice(&unsafe { from.read_unaligned() });
    u64::from_le_bytes(bytes)
}

/// The address of a symbol, and the number there.
fn field<const N: usize>(object: &Object, name: &str) -> (u64, u64) {
    let address = object.symbol(name).expect(name);
    (address, number::<N>(address))
}

fn signed(number: u64) -> u64 {
    i64::from(number as i32).cast_unsigned()
}

/// One field of each type that goes into data, and symbols of all sorts.
const FIELDS: &str = r#"
    .macro put name, type, width, value
    .globl \name
    \name: .reloc ., R_X86_64_\type, \value
    .zero \width
    .endm
    .macro text name
    .globl \name
    .type \name, @function
    \name:
    .endm
    .data
    put none NONE 4 y
    put abs64 64 8 y+8
    put abs32 32 4 low
    put abs32s 32S 4 high
    put abs16 16 2 small
    put abs8 8 1 tiny-0xff
    put pc64 PC64 8 triple+1
    put pc32 PC32 4 y-4
    put pc16 PC16 2 y
    put pc8 PC8 1 y
    .globl y
    .type y, @object
    .size y, 0x1c
    y: .zero 0x1c
    put plt32 PLT32 4 y-4
    put plt32_far PLT32 4 triple
    put size32 SIZE32 4 y+4
    put size64 SIZE64 8 y-4
    put got32 GOT32 4 y+1
    put got64 GOT64 8 triple
    put gotplt64 GOTPLT64 8 y
    put gotpcrel GOTPCREL 4 triple+2
    put gotpcrelx GOTPCRELX 4 y
    put rex_gotpcrelx REX_GOTPCRELX 4 y
    put gotpcrel64 GOTPCREL64 8 y
    put gotoff64 GOTOFF64 8 y+8
    put pltoff64 PLTOFF64 8 triple
    put gotpc32 GOTPC32 4 _GLOBAL_OFFSET_TABLE_+2
    put gotpc64 GOTPC64 8 _GLOBAL_OFFSET_TABLE_-2
"#;

#[test]
fn every_type_in_data_is_what_the_abi_says() {
    let Some(file) = assemble(FIELDS) else { return };
    for memory in [HostMemory::default(), far()] {
        let (program, tls) = (program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("s", &file).unwrap();
        let y = object.symbol("y").unwrap();
        let triple = triple as *const () as u64;
        let long = |name: &str| field::<8>(&object, name);
        let word = |name: &str| field::<4>(&object, name);
        assert_eq!(word("none").1, 0);
        assert_eq!(long("abs64").1, y + 8);
        assert_eq!([word("abs32").1, word("abs32s").1], [0x89ab_cdef, 0x8765_4321]);
        assert_eq!(field::<2>(&object, "abs16").1, 0x8765);
        assert_eq!(field::<1>(&object, "abs8").1, 0x80);
        let (place, value) = long("pc64");
        assert_eq!(place.wrapping_add(value), triple + 1);
        for name in ["pc32", "plt32"] {
            let (place, value) = word(name);
            assert_eq!(place.wrapping_add(signed(value)), y - 4, "{name}");
        }
        let (place, value) = field::<2>(&object, "pc16");
        assert_eq!(place + value, y);
        let (place, value) = field::<1>(&object, "pc8");
        assert_eq!(place + value, y);
        // The stub jumps to where its slot says.
        let (place, value) = word("plt32_far");
        let stub = place.wrapping_add(signed(value));
        assert!(object.text().contains(&stub));
        assert_eq!(number::<2>(stub), 0x25ff);
        assert_eq!(number::<8>((stub + 6).wrapping_add(signed(number::<4>(stub + 2)))), triple);
        assert_eq!([word("size32").1, long("size64").1], [0x20, 0x18]);

        let (place, value) = word("gotpc32");
        let got = place.wrapping_add(signed(value)) - 2;
        assert!(object.rodata().contains(&got));
        let (place, value) = long("gotpc64");
        assert_eq!(place.wrapping_add(value) + 2, got);
        assert_eq!(number::<8>(got + word("got32").1 - 1), y);
        assert_eq!(number::<8>(got + long("got64").1), triple);
        assert_eq!(number::<8>(got + long("gotplt64").1), y);
        let (place, value) = word("gotpcrel");
        assert_eq!(number::<8>(place.wrapping_add(signed(value)) - 2), triple);
        for name in ["gotpcrelx", "rex_gotpcrelx"] {
            let (place, value) = word(name);
            assert_eq!(number::<8>(place.wrapping_add(signed(value))), y, "{name}");
        }
        let (place, value) = long("gotpcrel64");
        assert_eq!(number::<8>(place.wrapping_add(value)), y);
        assert_eq!(got.wrapping_add(long("gotoff64").1), y + 8);
        assert_eq!(got.wrapping_add(long("pltoff64").1), triple);
    }
}

const TLS_FIELDS: &str = r#"
    .data
    .balign 8
    pair: put module DTPMOD64 8 x
    put offset DTPOFF64 8 x+4
    put offset32 DTPOFF32 4 x+4
    .balign 8
    other_pair: put other_module DTPMOD64 8 others
    .quad others@dtpoff
    .balign 8
    descriptor: put desc TLSDESC 16 x
    other_descriptor: put other_desc TLSDESC 16 others
    .section .tbss, "awT", @nobits
    .zero 12
    .globl x
    .type x, @object
    x: .zero 8
    .text
    text of_pair
        lea pair(%rip), %rdi
        jmp ask
    text of_other_pair
        lea other_pair(%rip), %rdi
    ask: sub $8, %rsp
        call __tls_get_addr@plt
        add $8, %rsp
        ret
    text of_descriptor
        lea descriptor(%rip), %rax
        jmp ask_resolver
    text of_other_descriptor
        lea other_descriptor(%rip), %rax
    ask_resolver: sub $8, %rsp
        call *(%rax)
        add $8, %rsp
        add %fs:0, %rax
        ret
    text by_model
        sub $8, %rsp
        .byte 0x66
        lea x@tlsgd(%rip), %rdi
        .value 0x6666
        rex64
        call __tls_get_addr@plt
        add $8, %rsp
        ret
"#;

/// What only goes with a fixed distance from TP.
const STATIC_FIELDS: &str = r#"
    .data
    put tpoff64 TPOFF64 8 x+4
    put tpoff32 TPOFF32 4 x-4
    put gottpoff GOTTPOFF 4 x
"#;

fn tls_source(more: &str) -> String {
    let macros = FIELDS.split(".data").next().unwrap();
    format!("{macros}{TLS_FIELDS}{more}")
}

/// Checks the pairs and descriptors that lead to `x` in a new task.
fn lead_to_x(object: &Object, tls: &Registry) -> u64 {
    let area = tls.new_area(0).unwrap();
    let run = |name| task::run(&area, function!(object, name, fn() -> u64));
    let x = run("by_model");
    assert_eq!([run("of_pair"), run("of_descriptor")], [x + 4, x]);
    x.wrapping_sub(area.thread_pointer().address())
}

#[test]
fn thread_local_fields_lead_to_the_variable() {
    let Some(file) = assemble(&tls_source(STATIC_FIELDS)) else { return };
    for memory in [HostMemory::default(), far()] {
        let (program, tls) = (program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("s", &file).unwrap();
        let tp_offset = lead_to_x(&object, &tls);
        assert_eq!(object.tls_offset("x"), Some(tp_offset.cast_signed() as i32));
        assert_eq!(field::<8>(&object, "tpoff64").1, tp_offset.wrapping_add(4));
        assert_eq!(signed(field::<4>(&object, "tpoff32").1), tp_offset - 4);
        let (place, value) = field::<4>(&object, "gottpoff");
        assert_eq!(number::<8>(place.wrapping_add(signed(value))), tp_offset);
        assert_eq!(field::<8>(&object, "offset").1, 12 + 4);
        assert_eq!(field::<4>(&object, "offset32").1, 12 + 4);
        let module = object.tls_module().unwrap().get() as u64;
        assert_eq!(field::<8>(&object, "module").1, module);

        let area = tls.new_area(0).unwrap();
        for name in ["of_other_pair", "of_other_descriptor"] {
            let place = task::run(&area, function!(object, name, fn() -> u64));
            assert_eq!(place, area.thread_pointer().address() - 0x123450, "{name}");
        }
    }
}

#[test]
fn thread_local_fields_work_without_static_space() {
    // A distance from TP is not known of the program's variable here, only what it is counted from.
    let source = tls_source("").replace(" others", " x").replace("others@", "x@");
    let Some(file) = assemble(&source) else { return };
    let (memory, program, tls) = (far(), program(), registry());
    let _rest = tls.reserve(tls.surplus_free(), 1).unwrap();
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("s", &file).unwrap();
    lead_to_x(&object, &tls);
    assert_eq!(object.tls_offset("x"), None);

    let refused = loader.load("s", &assemble(&tls_source("")).unwrap());
    let error = refused.map(|_| ()).unwrap_err().to_string();
    let expected = "R_X86_64_DTPMOD64 against `others`: the number of its module is not known";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_pair_for_others_variables_needs_none_of_its_own() {
    let source = tls_source("");
    let (start, end) =
        (source.find("    .section .tbss").unwrap(), source.find("    .text\n").unwrap());
    let source = format!("{}{}", &source[..start], &source[end..]);
    let Some(file) = assemble(&source) else { return };
    let (memory, tls) = (HostMemory::default(), registry());
    let _rest = tls.reserve(tls.surplus_free(), 1).unwrap();
    let program = program().with_tls("x", -0x2000);
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("s", &file).unwrap();
    assert_eq!(lead_to_x(&object, &tls).cast_signed(), -0x2000);
    assert!(object.tls_module().is_some());
}

const USES: &str = r#"
    .macro text name
    .globl \name
    .type \name, @function
    \name:
    .endm
    .text
    own: lea (%rdi,%rdi,4), %rax
        ret
    .macro all callee
    text call_\callee
        sub $8, %rsp
        call *\callee@GOTPCREL(%rip)
        add $8, %rsp
        ret
    text jump_\callee
        jmp *\callee@GOTPCREL(%rip)
        ud2
    text plt_\callee
        sub $8, %rsp
        call \callee@PLT
        add $8, %rsp
        ret
    text load_\callee
        mov \callee@GOTPCREL(%rip), %rcx
        jmp *%rcx
    text load_high_\callee
        mov \callee@GOTPCREL(%rip), %r11
        jmp *%r11
    text slot_\callee
        push \callee@GOTPCREL(%rip)
        ret
    .endm
    all own
    all triple
    .macro number name
    text read_\name
        mov \name@GOTPCREL(%rip), %rax
        ret
    text half_\name
        mov \name@GOTPCREL(%rip), %eax
        ret
    text high_\name
        mov \name@GOTPCREL(%rip), %r9
        mov %r9, %rax
        ret
    text sum_\name
        mov %rdi, %r10
        add \name@GOTPCREL(%rip), %r10
        mov %r10, %rax
        ret
    text less_\name
        xor %eax, %eax
        cmp \name@GOTPCREL(%rip), %rdi
        setb %al
        ret
    text test_\name
        xor %eax, %eax
        test %rdi, \name@GOTPCREL(%rip)
        setnz %al
        ret
    .endm
    number tiny
    number low
    number high
    number triple
"#;

#[test]
fn instructions_without_the_got_do_what_they_did_with_it() {
    let Some(file) = assemble(USES) else { return };
    for memory in [HostMemory::default(), far()] {
        let (program, tls) = (program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("s", &file).unwrap();
        for (callee, factor) in [("own", 5), ("triple", 3)] {
            for form in ["call", "jump", "plt", "load", "load_high", "slot"] {
                let call = function!(object, &format!("{form}_{callee}"), fn(u64) -> u64);
                assert_eq!(call(7), 7 * factor, "{form} {callee}");
            }
        }
        let triple = triple as *const () as u64;
        let numbers = [
            ("tiny", 0x7f),
            ("low", 0x89ab_cdef),
            ("high", 0xffff_ffff_8765_4321),
            ("triple", triple),
        ];
        for (name, number) in numbers {
            let call = |form, x| function!(object, &format!("{form}_{name}"), fn(u64) -> u64)(x);
            assert_eq!([call("read", 0), call("high", 0)], [number; 2], "{name}");
            assert_eq!(call("half", 0), number & 0xffff_ffff, "{name}");
            assert_eq!(call("sum", 5), number.wrapping_add(5), "{name}");
            assert_eq!(["less"; 2].map(|form| call(form, number)), [0; 2], "{name}");
            assert_eq!(call("less", number - 1), 1, "{name}");
            assert_eq!([call("test", number), call("test", !number)], [1, 0], "{name}");
        }
    }
}

/// Branches as assemblers write them that do not know of stubs.
const BRANCHES: &str = r#"
    .macro branch name, opcode:vararg
    .globl \name
    \name:
        \opcode
        .reloc ., R_X86_64_PC32, triple-4
        .long 0
    .endm
    .text
    branch jumps, .byte 0xe9
        ud2
    branch calls, .byte 0x50, 0xe8
        pop %rcx
        ret
    branch jumps_if, .byte 0x85, 0xff, 0x0f, 0x85
        xor %eax, %eax
        ret
"#;

#[test]
fn branches_go_through_stubs_whatever_their_relocations_are_called() {
    let Some(file) = assemble(BRANCHES) else { return };
    for memory in [HostMemory::default(), far()] {
        let (program, tls) = (program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("s", &file).unwrap();
        for name in ["jumps", "calls", "jumps_if"] {
            assert_eq!(function!(object, name, fn(u64) -> u64)(7), 21, "{name}");
        }
        assert_eq!(function!(object, "jumps_if", fn(u64) -> u64)(0), 0);
    }
}

#[test]
fn what_is_not_a_branch_is_not_sent_to_a_stub() {
    for instruction in [".byte 0x48, 0x8d, 0x05", ".byte 0x90, 0x8f", ".byte 0x0f, 0x90"] {
        let field = ".reloc ., R_X86_64_PC32, triple-4\n .long 0";
        let source = format!(".text\n {instruction}\n {field}\n ret");
        let Some(file) = assemble(&source) else { return };
        let (memory, program, tls) = (far(), program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let error = loader.load("s", &file).map(|_| ()).unwrap_err().into_cause();
        let Cause::Relocation { problem, .. } = error else { panic!("{error}") };
        assert!(matches!(problem, Problem::Overflow { .. }), "{problem}");
    }
    // Nor a branch to a place beside the symbol.
    let source = ".text\n .byte 0xe8\n .reloc ., R_X86_64_PC32, triple\n .long 0";
    let (memory, program, tls) = (far(), program(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let error = loader.load("s", &assemble(source).unwrap()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("R_X86_64_PC32 against `triple`"), "{error}");
}

#[test]
fn the_objects_own_symbols_take_no_slots() {
    let load = |callee: &str| {
        let source =
            format!(".text\n own: ret\n .globl f\n f: call *{callee}@GOTPCREL(%rip)\n ret");
        let (memory, program, tls) = (far(), program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("s", &assemble(&source)?).unwrap();
        let code = number::<2>(object.symbol("f").unwrap());
        Some((code, object.rodata().is_empty()))
    };
    let Some(own) = load("own") else { return };
    assert_eq!((own, load("triple").unwrap()), ((0xe867, true), (0x15ff, false)));
}

#[test]
fn what_does_not_fit_says_where_and_what() {
    let fields = [
        (
            "put f 32 4 high",
            "R_X86_64_32 against `high`: value 0xffffffff87654321 is not between 0x0 and 0xffffffff",
        ),
        (
            "put f 32S 4 low",
            "R_X86_64_32S against `low`: value 0x89abcdef is not between -0x80000000 and 0x7fffffff",
        ),
        (
            "put f 16 2 small+0x789b",
            "R_X86_64_16 against `small`: value 0x10000 is not between -0x8000 and 0xffff",
        ),
        (
            "put f 8 1 tiny-0x100",
            "R_X86_64_8 against `tiny`: value -0x81 is not between -0x80 and 0xff",
        ),
        (
            "put f PC16 2 f+0x8000",
            "R_X86_64_PC16 against `f`: value 0x8000 is not between -0x8000 and 0x7fff",
        ),
        (
            "put f PC8 1 f-0x81",
            "R_X86_64_PC8 against `f`: value -0x81 is not between -0x80 and 0x7f",
        ),
        (
            "put f PC32 4 f+0x7fffffff+1",
            "R_X86_64_PC32 against `f`: value 0x80000000 is not between -0x80000000 and 0x7fffffff",
        ),
        (
            "put f SIZE32 4 f-1",
            "R_X86_64_SIZE32 against `f`: value -0x1 is not between 0x0 and 0xffffffff",
        ),
        (
            "put f SIZE64 8 high",
            "R_X86_64_SIZE64 against `high`: defined elsewhere, so its size is not known",
        ),
        (
            "put f TPOFF32 4 others-0x7fffffff",
            "R_X86_64_TPOFF32 against `others`: value -0x8012344f is not between -0x80000000 and 0x7fffffff",
        ),
        ("put f TPOFF64 8 f", "R_X86_64_TPOFF64 against `f`: not a thread-local variable"),
    ];
    let macros = FIELDS.split(".data").next().unwrap();
    let program = program();
    for (field, message) in fields {
        let source = format!("{macros}.section .data.here, \"aw\"\n .zero 0x18\n {field}");
        let Some(file) = assemble(&source) else { return };
        let (memory, tls) = (HostMemory::default(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let error = loader.load("s", &file).map(|_| ()).unwrap_err();
        assert!(
            matches!(error.cause(), Cause::Relocation { offset: 0x18, .. }),
            "{field}: {error}"
        );
        let told = format!("s: .data.here+0x18: {message}");
        let advice = "; position-independent code (-fPIC) or a larger code model reaches farther";
        let advised = ["_PC32 ", "_32 ", "_32S "].iter().any(|kind| message.contains(kind));
        assert_eq!(error.to_string(), if advised { told + advice } else { told });
        assert_eq!(memory.live(), 0);
    }
}
