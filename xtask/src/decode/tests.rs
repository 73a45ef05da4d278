//! On files that the compiler makes here.

use std::fs;
use std::process::Command;

use super::*;
use crate::scratch::Scratch;

/// `middle` is inlined into `outer`, which is linked as a program without a C library.
const SOURCE: &str = "
static int hook(int x) { return __builtin_expect(x, 1) ? 3 : 4; }
__attribute__((noinline)) int inner(int x) { return hook(x) * 7; }
static inline __attribute__((always_inline)) int middle(int x) {
    return inner(x + 1) + 1;
}
int outer(int x) { return middle(x) + 2; }
void _start(void) { outer(1); for (;;) {} }
";

/// The source as an object with a section for each function, and as a program.
struct Files {
    scratch: Scratch,
}

impl Files {
    fn new(name: &str) -> Self {
        let files = Self { scratch: Scratch::new(name) };
        fs::write(files.path("source.c"), SOURCE).unwrap();
        files.cc("module.o", &["-c", "-ffunction-sections"]);
        files.cc("kernel.elf", &["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"]);
        files
    }

    fn cc(&self, output: &str, flags: &[&str]) {
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-g", "-fno-stack-protector"]).args(flags).arg("-o");
        cc.args([self.path(output), self.path("source.c")]);
        let done = cc.output().expect("cc, which linking Rust needs anyway");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What becomes of a log. `address` stands for where `outer` goes on after its call.
    fn decoded(&self, log: impl Fn(u64) -> String) -> String {
        let kernel = file::Files::read(&self.path("kernel.elf")).unwrap();
        let object = file::Files::read(&self.path("module.o")).unwrap();
        let (kernel, object) = (kernel.contents().unwrap(), object.contents().unwrap());
        let (kernel, object) = (Known::new(&kernel[0]).unwrap(), Known::new(&object[0]).unwrap());
        let log = log(self.after_call(&kernel));
        let mut decoder = Decoder::new(&kernel, std::slice::from_ref(&object));
        let lines = log.split_inclusive('\n').flat_map(|line| decoder.line(line.as_bytes()));
        String::from_utf8(lines.collect()).unwrap()
    }

    /// The first address after a call in `outer`.
    fn after_call(&self, kernel: &Known<'_>) -> u64 {
        let bytes = fs::read(self.path("kernel.elf")).unwrap();
        let symbols = crate::embed::symbols(&bytes).unwrap();
        let outer = symbols.iter().find(|symbol| symbol.name == "outer").unwrap();
        let inlined = |address| {
            let mut count = 0;
            kernel.symbols().functions(address, &mut |_| count += 1);
            count == 2
        };
        // The last instruction that `middle` has there is the addition after the call; the one
        // before is the call.
        let inside: Vec<_> =
            (outer.address..outer.address + outer.size).filter(|&at| inlined(at)).collect();
        inside[inside.len() / 2]
    }
}

fn names(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_once(" - ").map(|(_, name)| name)).collect()
}

#[test]
fn an_address_becomes_its_functions_with_their_lines() {
    let files = Files::new("decode-kernel");
    let text = files.decoded(|at| format!("   0: {at:#x} - <unknown>\n"));
    assert_eq!(names(&text), ["middle", "outer"], "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].contains("source.c:5") && lines[3].contains("source.c:7"), "{text}");
    assert!(lines[2].starts_with("   1: "), "{text}");
}

#[test]
fn an_object_is_found_by_name_and_section_wherever_it_was_loaded() {
    let files = Files::new("decode-object");
    let text = files.decoded(|_| "   0: 0x7fff0004 - module.o(.text.inner)+0x4\n".to_owned());
    assert!(names(&text).last() == Some(&"inner") && text.contains("source.c:3"), "{text}");
    assert!(text.contains("0x7fff0004"), "the address of the trace: {text}");
    // Right behind a call that does not return lies the next function.
    let exact = |mark: &str| {
        let log = format!("{mark}   0: 0x7fff0000 - module.o(.text.inner)+0x0\n");
        files.decoded(move |_| log.clone())
    };
    assert_eq!(names(&exact(INTERRUPTED)).last(), Some(&"inner"));
    assert_eq!(names(&exact("")), ["module.o(.text.inner)+0x0"]);
}

#[test]
fn what_is_no_trace_or_unknown_stays_as_it_is() {
    let files = Files::new("decode-rest");
    let log = "boot\r\n12: 0x10 - x\n   0: kernel::main\r\n   1: 0x10 - <unknown>\n\
               \u{fffd}  at noon\n   7: 0x40 - not the next number\nno newline";
    assert_eq!(files.decoded(|_| log.to_owned()), log);
}

#[test]
fn later_lines_are_numbered_anew_and_old_locations_go() {
    let files = Files::new("decode-numbers");
    let text = files.decoded(|at| {
        format!("   0: {at:#18x} - outer\r\n             at old.c:1\r\n   1: kernel::main\r\n")
    });
    assert!(text.ends_with("\r\n   2: kernel::main\r\n") && !text.contains("old.c"), "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn a_trace_with_lines_stays_as_it_is() {
    let files = Files::new("decode-again");
    let trace = |at: u64| format!("   0: {at:#18x} - <unknown>\r\n   1: {at:#18x} - <unknown>\r\n");
    let once = files.decoded(trace) + "   4: kernel::main\r\n";
    // Twice the same call, as a recursive function has it.
    assert_eq!(names(&once), ["middle", "outer", "middle", "outer"], "{once}");
    assert_eq!(files.decoded(|_| once.clone()), once);
    assert_eq!(files.decoded(|_| format!("{once}{once}")), format!("{once}{once}"));
    // Of one without them each line is a frame, whatever its name.
    let named = once.replace("outer", "middle");
    let bare: String = named.split_inclusive('\n').filter(|line| !line.contains(" at ")).collect();
    let text = files.decoded(|_| bare.clone());
    assert_eq!(names(&text), ["middle", "outer"].repeat(4), "{text}");
}

#[test]
fn members_of_an_archive_have_its_name() {
    let files = Files::new("decode-archive");
    let ar =
        Command::new("ar").arg("rcs").args([files.path("lib.a"), files.path("module.o")]).status();
    assert!(ar.unwrap().success());
    let archive = file::Files::read(&files.path("lib.a")).unwrap();
    let members = archive.contents().unwrap();
    let known = Known::new(&members[0]).unwrap();
    assert!(known.start_of("lib.a(module.o)(.text.outer)").is_some());
    assert!(known.start_of("module.o(.text.outer)").is_none());
    let source = file::Files::read(&files.path("source.c")).unwrap();
    assert!(source.contents().is_err());
}
