//! LLVM's JITLink, through the C interface of ORC's `LLJIT`, in this process.
//!
//! ```text
//!   add objects ──► look a symbol of each up ──► (JITLink links all of it) ──► remove
//! ```
//!
//! That is what `llvm-jitlink` does, without the start of a process. From LLVM 17 on, `LLJIT` links
//! ELF objects for x86-64 with JITLink; before, with its predecessor.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{NonNull, null, null_mut};

use crate::glibc::Library;
use crate::program::Failure;

/// Debian's and LLVM's names of the library, newest first.
const NAMES: [&CStr; 7] = [
    c"libLLVM.so.21.1",
    c"libLLVM.so.20.1",
    c"libLLVM.so.19.1",
    c"libLLVM.so.18.1",
    c"libLLVM-18.so.1",
    c"libLLVM-17.so.1",
    c"libLLVM-17.so",
];

type Pointer = *mut c_void;
/// `LLVMErrorRef`: null if all is well.
type Status = Pointer;

/// LLVM's functions, by their names there.
struct Functions {
    error_message: unsafe extern "C" fn(Status) -> *const c_char,
    buffer: unsafe extern "C" fn(*const u8, usize, *const c_char, i32) -> Pointer,
    add: unsafe extern "C" fn(Pointer, Pointer, Pointer) -> Status,
    lookup: unsafe extern "C" fn(Pointer, *mut u64, *const c_char) -> Status,
    new_tracker: unsafe extern "C" fn(Pointer) -> Pointer,
    remove: unsafe extern "C" fn(Pointer) -> Status,
    release: unsafe extern "C" fn(Pointer),
}

/// A just-in-time compiler that only links.
pub struct Jit {
    call: Functions,
    jit: Pointer,
    library: Pointer,
}

/// What was linked: a resource tracker.
pub struct Linked(Pointer);

/// A function of LLVM's.
macro_rules! function {
    ($llvm:expr, $name:expr, fn($($argument:ty),*) $(-> $result:ty)?) => {{
        let address = $llvm.symbol($name)?;
        // SAFETY: its type in LLVM's C headers.
        unsafe {
            std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                address,
            )
        }
    }};
}

impl Jit {
    /// Starts LLVM; `None` where it is not installed.
    pub fn start() -> Result<Option<Self>, Failure> {
        let mut found = NAMES.iter().filter_map(|name| Library::open(name, libc::RTLD_LOCAL).ok());
        let Some(llvm) = found.next() else { return Ok(None) };
        for name in [
            c"LLVMInitializeX86TargetInfo",
            c"LLVMInitializeX86Target",
            c"LLVMInitializeX86TargetMC",
            c"LLVMInitializeX86AsmPrinter",
        ] {
            let initialize = function!(llvm, name, fn());
            // SAFETY: may be called by anyone.
            unsafe { initialize() };
        }
        let call = Functions {
            error_message: function!(llvm, c"LLVMGetErrorMessage", fn(Status) -> *const c_char),
            buffer: function!(
                llvm,
                c"LLVMCreateMemoryBufferWithMemoryRange",
                fn(*const u8, usize, *const c_char, i32) -> Pointer
            ),
            add: function!(
                llvm,
                c"LLVMOrcLLJITAddObjectFileWithRT",
                fn(Pointer, Pointer, Pointer) -> Status
            ),
            lookup: function!(
                llvm,
                c"LLVMOrcLLJITLookup",
                fn(Pointer, *mut u64, *const c_char) -> Status
            ),
            new_tracker: function!(
                llvm,
                c"LLVMOrcJITDylibCreateResourceTracker",
                fn(Pointer) -> Pointer
            ),
            remove: function!(llvm, c"LLVMOrcResourceTrackerRemove", fn(Pointer) -> Status),
            release: function!(llvm, c"LLVMOrcReleaseResourceTracker", fn(Pointer)),
        };
        let create = function!(llvm, c"LLVMOrcCreateLLJIT", fn(*mut Pointer, Pointer) -> Status);
        let mut jit = null_mut();
        // SAFETY: a place for the result, and no wishes.
        call.check(unsafe { create(&raw mut jit, null_mut()) })?;
        let library = function!(llvm, c"LLVMOrcLLJITGetMainJITDylib", fn(Pointer) -> Pointer);
        // SAFETY: made above.
        let library = unsafe { library(jit) };
        let this = Self { call, jit, library };
        this.offer_process(&llvm)?;
        Ok(Some(this))
    }

    /// Lets objects refer to the symbols of this process.
    fn offer_process(&self, llvm: &Library) -> Result<(), Failure> {
        let create = function!(
            llvm,
            c"LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess",
            fn(*mut Pointer, c_char, *const c_void, *const c_void) -> Status
        );
        let mut generator = null_mut();
        // SAFETY: a place for the result; no prefix, no filter.
        self.call.check(unsafe { create(&raw mut generator, 0, null(), null()) })?;
        let add = function!(llvm, c"LLVMOrcJITDylibAddGenerator", fn(Pointer, Pointer));
        // SAFETY: both were made by LLVM; the library takes the generator.
        unsafe { add(self.library, generator) };
        Ok(())
    }

    /// Links all of `objects`, each of which has one of the global functions `names`.
    pub fn load(&self, objects: &[Vec<u8>], names: &[CString]) -> Result<Linked, Failure> {
        // SAFETY: the library was made by LLVM.
        let tracker = unsafe { (self.call.new_tracker)(self.library) };
        for object in objects {
            // SAFETY: LLVM copies nothing and reads the objects while it links, which is until the
            // lookups below return.
            let buffer =
                unsafe { (self.call.buffer)(object.as_ptr(), object.len(), c"object".as_ptr(), 0) };
            // SAFETY: all were made by LLVM, which takes the buffer.
            self.call.check(unsafe { (self.call.add)(self.jit, tracker, buffer) })?;
        }
        for name in names {
            let mut address = 0;
            // SAFETY: a place for the result, and a name.
            let status = unsafe { (self.call.lookup)(self.jit, &raw mut address, name.as_ptr()) };
            self.call.check(status)?;
            assert_ne!(address, 0);
        }
        Ok(Linked(tracker))
    }

    pub fn unload(&self, linked: Linked) -> Result<(), Failure> {
        // SAFETY: a tracker, whose code nobody runs.
        let removed = unsafe { (self.call.remove)(linked.0) };
        // SAFETY: not used any more.
        unsafe { (self.call.release)(linked.0) };
        self.call.check(removed)
    }
}

impl Functions {
    fn check(&self, status: Status) -> Result<(), Failure> {
        if status.is_null() {
            return Ok(());
        }
        // SAFETY: an error, which this takes, and gives text that is never freed here.
        let text = unsafe { CStr::from_ptr((self.error_message)(status)) };
        Err(CString::from(text).to_string_lossy().into())
    }
}
