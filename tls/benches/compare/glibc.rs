//! What glibc has: its allocation of thread-local storage, its modules, its accesses.

use std::error::Error;
use std::ffi::{CStr, CString, c_int, c_void};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::time::Duration;

use crate::arch::{Get, Rows};

/// What is compiled for glibc's side.
const SOURCES: [(&str, &str); 3] = [
    ("module.c", include_str!("module.c")),
    ("accesses.S", include_str!("accesses.S")),
    ("program.c", include_str!("program.c")),
];

/// Compiles sources of [`SOURCES`], a list of options, to a file.
pub fn compile(folder: &Path, name: &str, options: &str) -> Result<(), Box<dyn Error>> {
    for (name, text) in SOURCES {
        std::fs::write(folder.join(name), text)?;
    }
    let mut cc = Command::new("cc");
    cc.current_dir(folder).args(["-O2", "-o", name]).args(options.split(' '));
    if cc.status()?.success() { Ok(()) } else { Err("cc failed".into()) }
}

/// The name of a copy of a module.
pub fn copy_name(name: &str, number: usize) -> String {
    format!("{number}.{name}")
}

/// Copies a module, and says where the copies are.
pub fn copies(folder: &Path, name: &str, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let copy = |number| {
        let copy = folder.join(copy_name(name, number));
        std::fs::copy(folder.join(name), &copy)?;
        copy.into_os_string().into_string().map_err(|_| "not a text".into())
    };
    (0..count).map(copy).collect()
}

/// A function of the process by its name.
fn function(name: &CStr) -> Result<NonNull<c_void>, Box<dyn Error>> {
    // SAFETY: looks a name up.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    NonNull::new(address).ok_or_else(|| format!("there is no {name:?}").into())
}

/// Has malloc keep what it got, as a kernel's heap does, so that no side pays for page faults.
pub fn keep_memory() {
    for option in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD, libc::M_TOP_PAD] {
        // SAFETY: sets an option.
        unsafe { libc::mallopt(option, 64 << 20) };
    }
}

type Allocate = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Deallocate = unsafe extern "C" fn(*mut c_void, bool);

/// `_dl_allocate_tls` and `_dl_deallocate_tls`: what a thread's creation and end call.
pub struct Areas {
    allocate: Allocate,
    deallocate: Deallocate,
}

impl Areas {
    pub fn find() -> Result<Self, Box<dyn Error>> {
        let (allocate, deallocate) =
            (function(c"_dl_allocate_tls")?, function(c"_dl_deallocate_tls")?);
        // SAFETY: their types in glibc.
        let allocate = unsafe { std::mem::transmute::<NonNull<c_void>, Allocate>(allocate) };
        // SAFETY: as above.
        let deallocate = unsafe { std::mem::transmute::<NonNull<c_void>, Deallocate>(deallocate) };
        Ok(Self { allocate, deallocate })
    }

    pub fn create(&self) -> *mut c_void {
        // SAFETY: null asks for new memory.
        let area = unsafe { (self.allocate)(std::ptr::null_mut()) };
        assert!(!area.is_null());
        area
    }

    pub fn end(&self, area: *mut c_void) {
        // SAFETY: from `create`; true frees its memory, too.
        unsafe { (self.deallocate)(area, true) };
    }
}

/// glibc's `__tls_get_addr`.
pub fn tls_get_addr() -> Result<Get, Box<dyn Error>> {
    let address = function(c"__tls_get_addr")?;
    // SAFETY: its type.
    Ok(unsafe { std::mem::transmute::<NonNull<c_void>, Get>(address) })
}

/// How many modules have thread-local variables.
pub fn modules() -> usize {
    extern "C" fn count(info: *mut libc::dl_phdr_info, _: usize, count: *mut c_void) -> c_int {
        // SAFETY: `dl_iterate_phdr` gives a valid one.
        let module = unsafe { (*info).dlpi_tls_modid };
        // SAFETY: the counter below.
        unsafe { *count.cast::<usize>() += usize::from(module != 0) };
        0
    }
    let mut modules = 0_usize;
    // SAFETY: the function takes the counter.
    unsafe { libc::dl_iterate_phdr(Some(count), (&raw mut modules).cast()) };
    modules
}

/// An open shared library.
pub struct Library(NonNull<c_void>);

impl Library {
    pub fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a library without initialisers.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        Ok(Self(NonNull::new(handle).ok_or_else(|| format!("cannot open {name:?}"))?))
    }

    /// Its module number.
    pub fn module(&self) -> Result<usize, Box<dyn Error>> {
        const RTLD_DI_TLS_MODID: c_int = 9;
        unsafe extern "C" {
            fn dlinfo(handle: *mut c_void, request: c_int, info: *mut c_void) -> c_int;
        }
        let mut module = 0_usize;
        // SAFETY: the request stores a word.
        let result =
            unsafe { dlinfo(self.0.as_ptr(), RTLD_DI_TLS_MODID, (&raw mut module).cast()) };
        if result == 0 && module != 0 { Ok(module) } else { Err("not a module".into()) }
    }

    /// Rows of accesses by a model.
    pub fn rows(&self, model: &CStr) -> Result<Rows, Box<dyn Error>> {
        // SAFETY: looks a name up.
        let rows = unsafe { libc::dlsym(self.0.as_ptr(), model.as_ptr()) };
        let rows = NonNull::new(rows).ok_or_else(|| format!("no {model:?}"))?;
        // SAFETY: its type in `accesses.S`.
        Ok(unsafe { std::mem::transmute::<NonNull<c_void>, Rows>(rows) })
    }
}

/// A running `program.c`.
pub struct Program {
    process: Child,
}

impl Program {
    pub fn start(path: &Path) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(path);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { process })
    }

    /// How long rows of one of its models took.
    pub fn time(&mut self, model: u64, times: u64) -> io::Result<Duration> {
        let Child { stdin: Some(to), stdout: Some(from), .. } = &mut self.process else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let request = [model.to_ne_bytes(), times.to_ne_bytes()];
        to.write_all(request.as_flattened())?;
        let mut time = [0; 8];
        from.read_exact(&mut time)?;
        Ok(Duration::from_nanos(u64::from_ne_bytes(time)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Has this process and its children stay on the processor it is on.
pub fn stay_here() {
    // SAFETY: asks for a number.
    let here = unsafe { libc::sched_getcpu() };
    // SAFETY: zeroes are an empty set.
    let mut set = unsafe { std::mem::zeroed::<libc::cpu_set_t>() };
    // SAFETY: the number is that of a processor.
    unsafe { libc::CPU_SET(usize::try_from(here).unwrap_or(0), &mut set) };
    // SAFETY: a set of that size.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}
