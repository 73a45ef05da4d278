//! All that walk a stack, behind one trait.
//!
//! ```text
//!   ours (library) · ours (.so) · libgcc · LLVM libunwind · `unwinding`     _Unwind_Backtrace
//!   framehop · nongnu libunwind                                             their own interfaces
//! ```

use std::ffi::{CStr, CString, c_int, c_void};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Unwinder as _};
use unspool_unwind::{Cursor, Modules, Pc, Register, Registers, StackBounds, Step};

use crate::{objects, tables};

/// Walks the stack that it is called on.
pub trait Walker {
    /// The sum of so many frames' instruction pointers, its own callers' first.
    ///
    /// # Panics
    ///
    /// The walk ends before.
    fn walk(&mut self, frames: usize) -> u64;
}

/// What is asked of our library of every frame.
#[derive(Clone, Copy)]
pub enum Asked {
    /// Its address; all callee-saved registers are there for the asking.
    Address,
    /// All callee-saved registers.
    Registers,
    /// The same, by a cursor that stands in each frame.
    Steps,
}

/// Our library, in the process.
pub struct Ours {
    asked: Asked,
    modules: Box<Modules>,
    stack: (u64, u64),
}

impl Ours {
    /// By DWARF, or by tables that were worked out before where there are any.
    pub fn new(tables: Option<&Path>, asked: Asked) -> Result<Self> {
        let modules = Box::<Modules>::new(Modules::new());
        for object in objects::all() {
            let module = object.module();
            let module = match tables {
                Some(folder) => module.with_table(tables::read(folder, &object)?),
                None => module,
            };
            // SAFETY: no object is unloaded.
            std::mem::forget(unsafe { modules.register(module) }?);
        }
        Ok(Self { asked, modules, stack: objects::stack() })
    }
}

impl Walker for Ours {
    #[inline(never)]
    fn walk(&mut self, frames: usize) -> u64 {
        let registers = Registers::here();
        // SAFETY: the running thread's stack, from its stack pointer on.
        let stack = unsafe { StackBounds::new(registers.sp(), self.stack.1) };
        let pc = Pc::Return(registers.ip());
        let mut cursor = Cursor::new(registers, pc, stack, &*self.modules);
        let (mut sum, mut left) = (0u64, frames);
        let mut count = |ip: u64| {
            sum = sum.wrapping_add(ip);
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let end = match self.asked {
            Asked::Address => cursor.walk(|frame| count(frame.pc().address())),
            Asked::Registers => cursor.walk(|frame| count(black_box(frame.registers()).ip())),
            Asked::Steps => loop {
                assert!(matches!(cursor.step(), Ok(Step::Caller { .. })), "the walk ends early");
                if count(black_box(cursor.registers()).ip()).is_break() {
                    break Ok(Some(()));
                }
            },
        };
        assert!(matches!(end, Ok(Some(()))), "the walk ends early");
        sum
    }
}

/// A shared library that stays loaded.
#[derive(Clone, Copy)]
struct Library(*mut c_void);

impl Library {
    fn open(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: loads a library, whose constructors are harmless.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            bail!("{} cannot be loaded", path.display());
        }
        Ok(Self(handle))
    }

    /// A function.
    ///
    /// # Safety
    ///
    /// `F` is its type, a function pointer.
    unsafe fn function<F: Copy>(self, name: &CStr) -> Result<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: looks a name up.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if address.is_null() {
            bail!("there is no {name:?}");
        }
        // SAFETY: the caller's promise.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }
}

type Each = extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type GetIp = unsafe extern "C" fn(*mut c_void) -> u64;

/// A library with the Itanium names.
pub struct Itanium {
    backtrace: unsafe extern "C" fn(Each, *mut c_void) -> c_int,
    get_ip: GetIp,
}

impl Itanium {
    pub fn new(path: &Path) -> Result<Self> {
        let library = Library::open(path)?;
        // SAFETY: the types of <unwind.h>.
        unsafe {
            Ok(Self {
                backtrace: library.function(c"_Unwind_Backtrace")?,
                get_ip: library.function(c"_Unwind_GetIP")?,
            })
        }
    }
}

impl Walker for Itanium {
    #[inline(never)]
    fn walk(&mut self, frames: usize) -> u64 {
        struct State(GetIp, usize, u64);
        extern "C" fn each(context: *mut c_void, state: *mut c_void) -> c_int {
            // SAFETY: `walk` passes its state.
            let State(get_ip, left, sum) = unsafe { &mut *state.cast::<State>() };
            // SAFETY: the context of this library.
            *sum = sum.wrapping_add(unsafe { get_ip(context) });
            *left -= 1;
            if *left == 0 { 5 } else { 0 }
        }
        let mut state = State(self.get_ip, frames, 0);
        // SAFETY: `each` takes the state.
        unsafe { (self.backtrace)(each, (&raw mut state).cast()) };
        assert_eq!(state.1, 0, "the walk ends early");
        state.2
    }
}

/// framehop: return addresses, `rsp` and `rbp`.
pub struct Framehop {
    unwinder: UnwinderX86_64<&'static [u8]>,
    cache: CacheX86_64,
    stack: (u64, u64),
}

impl Framehop {
    pub fn new() -> Self {
        let mut unwinder = UnwinderX86_64::new();
        for object in objects::all() {
            let svma = |bytes: &[u8]| {
                let start = bytes.as_ptr() as u64 - object.base;
                start..start + bytes.len() as u64
            };
            let sections = ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma: Some(object.range.0 - object.base..object.range.1 - object.base),
                eh_frame_svma: Some(svma(object.eh_frame)),
                eh_frame: Some(object.eh_frame),
                eh_frame_hdr_svma: Some(svma(object.header)),
                eh_frame_hdr: Some(object.header),
                ..Default::default()
            };
            let range = object.range.0..object.range.1;
            let module = framehop::Module::new(String::new(), range, object.base, sections);
            unwinder.add_module(module);
        }
        Self { unwinder, cache: CacheX86_64::new(), stack: objects::stack() }
    }
}

impl Walker for Framehop {
    #[inline(never)]
    fn walk(&mut self, frames: usize) -> u64 {
        let here = Registers::here();
        let registers = UnwindRegsX86_64::new(here.ip(), here.sp(), here.get(Register::RBP));
        let bounds = here.sp()..self.stack.1 - 7;
        let mut read = |address: u64| {
            let word = std::ptr::with_exposed_provenance::<u64>(address as usize);
            // SAFETY: inside the running thread's stack.
            if bounds.contains(&address) { Ok(unsafe { word.read_unaligned() }) } else { Err(()) }
        };
        let mut iter = self.unwinder.iter_frames(here.ip(), registers, &mut self.cache, &mut read);
        let mut sum = 0u64;
        for _ in 0..=frames {
            let frame = iter.next().ok().flatten().expect("the walk ends early");
            sum = sum.wrapping_add(frame.address());
        }
        sum
    }
}

/// nongnu libunwind by steps: all registers.
pub struct Nongnu {
    get_context: unsafe extern "C" fn(*mut Opaque) -> c_int,
    init: unsafe extern "C" fn(*mut Opaque, *mut Opaque) -> c_int,
    step: unsafe extern "C" fn(*mut Opaque) -> c_int,
    get: unsafe extern "C" fn(*mut Opaque, c_int, *mut u64) -> c_int,
}

/// Room for a cursor (127 words) or a context (`ucontext_t`).
#[repr(C, align(16))]
struct Opaque([u64; 256]);

/// The number of the instruction pointer on x86-64.
const UNW_REG_IP: c_int = 16;

impl Nongnu {
    pub fn new() -> Result<Self> {
        let library = Library::open(Path::new(NONGNU))?;
        // SAFETY: the types of <libunwind.h>.
        unsafe {
            Ok(Self {
                get_context: library.function(c"_Ux86_64_getcontext")?,
                init: library.function(c"_ULx86_64_init_local")?,
                step: library.function(c"_ULx86_64_step")?,
                get: library.function(c"_ULx86_64_get_reg")?,
            })
        }
    }
}

impl Walker for Nongnu {
    #[inline(never)]
    fn walk(&mut self, frames: usize) -> u64 {
        let (mut context, mut cursor) = (Opaque([0; 256]), Opaque([0; 256]));
        let mut sum = 0u64;
        // SAFETY: both are as large as they are filled; this frame lives on.
        unsafe {
            (self.get_context)(&mut context);
            assert_eq!((self.init)(&mut cursor, &mut context), 0);
            for _ in 0..frames {
                assert!((self.step)(&mut cursor) > 0, "the walk ends early");
                let mut ip = 0;
                (self.get)(&mut cursor, UNW_REG_IP, &mut ip);
                sum = sum.wrapping_add(ip);
            }
        }
        sum
    }
}

/// nongnu libunwind's `unw_backtrace`: return addresses, by what it remembers of call sites.
pub struct NongnuTrace {
    backtrace: unsafe extern "C" fn(*mut u64, c_int) -> c_int,
    buffer: Vec<u64>,
}

impl NongnuTrace {
    pub fn new() -> Result<Self> {
        let library = Library::open(Path::new(NONGNU))?;
        // SAFETY: the type of <libunwind.h>.
        let backtrace = unsafe { library.function(c"unw_backtrace") }?;
        Ok(Self { backtrace, buffer: vec![0; 1024] })
    }
}

impl Walker for NongnuTrace {
    #[inline(never)]
    fn walk(&mut self, frames: usize) -> u64 {
        // SAFETY: the buffer has room for so many.
        let count = unsafe { (self.backtrace)(self.buffer.as_mut_ptr(), frames as c_int) };
        assert_eq!(count as usize, frames, "the walk ends early");
        self.buffer[..frames].iter().fold(0, |sum, ip| sum.wrapping_add(*ip))
    }
}

const NONGNU: &str = "libunwind.so.8";

/// LLVM's libunwind, of the newest Debian package that is installed.
fn llvm() -> Option<PathBuf> {
    (11..40)
        .rev()
        .map(|version| PathBuf::from(format!("/usr/lib/llvm-{version}/lib/libunwind.so.1")))
        .find(|path| path.exists())
}

/// Our library: each frame's address is asked for, all registers are there for the asking.
pub const OURS: &str = "ours";
/// The same, that is asked for all registers of every frame.
pub const REGISTERS: &str = "ours, registers";
/// The same, step by step: all registers have been read in each frame.
pub const STEPS: &str = "ours, steps";
/// Ours with tables of frames.
pub const TABLE: &str = "ours, table";
/// Our unwinder as a shared library.
pub const LIBRARY: &str = "ours, .so";

/// Where the shared libraries are that are not installed.
pub struct Places<'a> {
    /// Where tables of frames are put.
    pub tables: &'a Path,
    pub ours: &'a Path,
    pub unwinding: &'a Path,
}

/// All names, and what each of them finds.
pub const NAMES: [&str; 11] = [
    OURS,
    REGISTERS,
    STEPS,
    TABLE,
    LIBRARY,
    "libgcc",
    "unwinding",
    "framehop (ra)",
    "nongnu",
    "nongnu trace (ra)",
    "llvm",
];

/// The walker with this name.
///
/// # Errors
///
/// Its library is not there.
pub fn walker(name: &str, places: &Places<'_>) -> Result<Box<dyn Walker>> {
    Ok(match name {
        OURS => Box::new(Ours::new(None, Asked::Address)?),
        REGISTERS => Box::new(Ours::new(None, Asked::Registers)?),
        STEPS => Box::new(Ours::new(None, Asked::Steps)?),
        TABLE => Box::new(Ours::new(Some(places.tables), Asked::Address)?),
        LIBRARY => Box::new(Itanium::new(places.ours)?),
        "libgcc" => Box::new(Itanium::new(Path::new("libgcc_s.so.1"))?),
        "unwinding" => Box::new(Itanium::new(places.unwinding)?),
        "framehop (ra)" => Box::new(Framehop::new()),
        "nongnu" => Box::new(Nongnu::new()?),
        "nongnu trace (ra)" => Box::new(NongnuTrace::new()?),
        "llvm" => match llvm() {
            Some(path) => Box::new(Itanium::new(&path)?),
            None => bail!("no package of LLVM's libunwind is installed"),
        },
        _ => bail!("what is {name}?"),
    })
}
