//! Our traces of this process against std's, of the same stack, line by line.
//!
//! Numbers, the innermost frame's columns and the current directory are normalised; nothing else.

use std::env;
use std::ffi::{c_int, c_void};
use std::fs;
use std::hint::black_box;
use std::panic;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind};
use unspool_stack_trace::table::{Entry, SymbolTable, build};
use unspool_stack_trace::{Backtrace, DebugInfo, Host, Style, Symbolize, print, set_host, trace};
use unspool_unwind::{FdeIndex, Module, Section, StackBounds, register};

/// This process: its own file, as it lies in memory.
struct Process {
    symbols: (DebugInfo<'static>, SymbolTable<'static>),
}

impl Host for Process {
    fn stack(&self) -> StackBounds {
        let (mut low, mut size) = (std::ptr::null_mut::<c_void>(), 0);
        // SAFETY: attributes of the running thread are written to a place for them.
        unsafe {
            let mut attributes = std::mem::zeroed();
            assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
            assert_eq!(libc::pthread_attr_getstack(&attributes, &mut low, &mut size), 0);
            libc::pthread_attr_destroy(&mut attributes);
        }
        let low = low.expose_provenance() as u64;
        // SAFETY: the stack of the running thread, of which the part in use is looked at.
        unsafe { StackBounds::new(low, low + size as u64) }
    }

    fn symbols(&self) -> &dyn Symbolize {
        &self.symbols
    }
}

/// What the dynamic linker added to the addresses in the program's file.
fn bias() -> u64 {
    extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, bias: *mut c_void) -> c_int {
        // SAFETY: the linker passes a valid entry, and `bias` a valid number.
        unsafe { *bias.cast::<u64>() = (*info).dlpi_addr };
        1
    }
    let mut bias = 0_u64;
    // SAFETY: `first` gets the number it expects.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut bias).cast()) };
    bias
}

/// Makes traces of this process possible.
fn prepare() {
    set_host(process());
}

/// This process; its tables are registered.
fn process() -> &'static Process {
    static PROCESS: OnceLock<Process> = OnceLock::new();
    PROCESS.get_or_init(|| {
        let bytes: &'static [u8] = fs::read("/proc/self/exe").unwrap().leak();
        let file: &'static object::File<'static> =
            Box::leak(Box::new(object::File::parse(bytes).unwrap()));
        let bias = bias();
        let section = |name: &str| -> Section<'static> {
            let section = file.section_by_name(name).unwrap();
            let address = (section.address() + bias) as usize;
            let start = std::ptr::with_exposed_provenance(address);
            // SAFETY: the section is mapped as long as the program runs, and never written.
            Section::in_memory(unsafe {
                std::slice::from_raw_parts(start, section.size() as usize)
            })
        };
        let end = file.segments().map(|each| each.address() + each.size()).max().unwrap();
        let module = Module::new(bias..bias + end, section(".eh_frame"))
            .with_index(FdeIndex::Header(section(".eh_frame_hdr")));
        // SAFETY: the tables of this program, for its own code, which stays.
        std::mem::forget(unsafe { register(module) }.unwrap());

        let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
        let entries: Vec<_> = functions
            .map(|symbol| Entry {
                name: symbol.name().unwrap(),
                address: symbol.address() + bias,
                size: symbol.size(),
                code: true,
                global: symbol.is_global(),
            })
            .collect();
        let table = SymbolTable::parse(build(&entries).leak()).unwrap();
        let debug = |name: &str| file.section_by_name(name).map_or(&[][..], |s| s.data().unwrap());
        Process { symbols: (DebugInfo::new(debug, bias).unwrap(), table) }
    })
}

/// One at a time reads debug information; others do without.
static ONE: Mutex<()> = Mutex::new(());

type Both = (std::backtrace::Backtrace, Backtrace);

#[inline(never)]
fn innermost() -> Both {
    black_box((std::backtrace::Backtrace::force_capture(), Backtrace::force_capture()))
}

#[inline(always)]
fn inlined() -> Both {
    let both = innermost();
    black_box(());
    both
}

#[inline(never)]
fn middle<T>(_: T) -> Both {
    black_box(inlined())
}

#[inline(never)]
fn outermost() -> Both {
    black_box(middle("generic"))
}

fn both() -> Both {
    prepare();
    outermost()
}

/// A text's lines without the current directory and the numbers of frames.
fn lines(text: &str) -> Vec<String> {
    let here = format!("{}/", env::current_dir().unwrap().display());
    let line = |line: &str| {
        let line = line.replace(&here, "./");
        match line.split_once(": ") {
            Some((number, rest)) if number.trim().parse::<u32>().is_ok() => rest.to_owned(),
            _ => line,
        }
    };
    text.lines().map(line).collect()
}

/// The lines from the first with `from` to the one before the first with `to` after it.
fn between(text: &str, from: &str, to: &str) -> Vec<String> {
    let lines = lines(text);
    let start = lines.iter().position(|line| line.contains(from));
    let start = start.unwrap_or_else(|| panic!("no {from} in {text}"));
    lines.into_iter().skip(start).take_while(|line| !line.contains(to)).collect()
}

#[test]
fn the_short_form_has_stds_lines() {
    let _one = ONE.lock();
    let (std, ours) = both();
    let (std, ours) = (std.to_string(), ours.to_string());
    // The two captures of the innermost frame stand in one line, at different columns.
    let theirs = between(&std, "::inlined", "::both");
    assert_eq!(between(&ours, "::inlined", "::both"), theirs, "{std}\n{ours}");
    assert!(theirs.len() >= 6, "{std}");
    let column = |lines: Vec<String>| lines[1].rsplit_once(':').unwrap().0.to_owned();
    let place = column(between(&std, "::innermost", "::inlined"));
    assert_eq!(column(between(&ours, "::innermost", "::inlined")), place);
}

#[test]
fn the_full_form_has_stds_lines_addresses_and_hashes() {
    let _one = ONE.lock();
    let (std, ours) = both();
    let (std, ours) = (format!("{std:#}"), format!("{ours:#}"));
    let theirs = between(&std, "::middle", "::both");
    assert_eq!(between(&ours, "::middle", "::both"), theirs, "{std}\n{ours}");
    assert!(theirs[0].contains("0x"), "{std}");
}

#[test]
fn the_debug_form_has_stds_entries() {
    let _one = ONE.lock();
    let (std, ours) = both();
    let here = format!("{}/", env::current_dir().unwrap().display());
    let entries = |text: String| {
        let text = text.replace(&here, "./");
        assert!(text.starts_with("Backtrace [{ fn: ") && text.ends_with("}]"), "{text}");
        let start = text.find("middle").unwrap();
        let end = text.find("::both").unwrap();
        text[start..end].to_owned()
    };
    assert_eq!(entries(format!("{ours:?}")), entries(format!("{std:?}")));
    assert_eq!(
        Backtrace::disabled().to_string(),
        std::backtrace::Backtrace::disabled().to_string()
    );
    assert_eq!(
        format!("{:?}", Backtrace::disabled()),
        format!("{:?}", std::backtrace::Backtrace::disabled())
    );
}

#[inline(never)]
fn fails(number: u32) {
    if black_box(number) > 1 {
        panic!("number {number}");
    }
}

/// This test starts itself again; there it panics, and the hook prints our trace before std's.
#[test]
fn a_panics_trace_has_stds_lines() {
    const CHILD: &str = "UNSPOOL_BACKTRACE_CHILD";
    if env::var_os(CHILD).is_some() {
        prepare();
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let mut ours = String::new();
            print(&mut ours, trace(), Style::Short, process().symbols()).unwrap();
            eprint!("OURS\n{ours}STD\n");
            default(info);
        }));
        fails(7);
        return;
    }
    let name = "a_panics_trace_has_stds_lines";
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    let output = child.env(CHILD, "1").env("RUST_BACKTRACE", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let (_, text) = text.split_once("OURS\n").unwrap_or_else(|| panic!("{text}"));
    let (ours, std) = text.split_once("STD\n").unwrap();
    let trace = |text: &str| {
        let mut lines = between(text, "stack backtrace:", "note: ");
        // Only this program is registered: where the C library calls it, ours ends, with a reason.
        lines.retain(|line| !line.contains("[... the trace ends here: no module contains"));
        lines
    };
    assert!(trace(std).len() > 6, "{std}");
    assert_eq!(trace(ours), trace(std), "{ours}\n{std}");
    assert!(std.contains(") panicked at ") && std.contains("\nnumber 7\nstack backtrace:\n"));
}
