//! `dlopen` and `dlclose`.

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use crate::program::Failure;

/// An open shared library. It is closed by [`close`](Self::close) only.
pub struct Library(NonNull<c_void>);

impl Library {
    /// Opens it with everything bound at once; for everyone (`RTLD_GLOBAL`), or for itself.
    pub fn open(path: &CStr, scope: c_int) -> Result<Self, Failure> {
        // SAFETY: the libraries of this bench have no initialisers; LLVM's are made to be opened.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | scope) };
        NonNull::new(handle).map(Self).ok_or_else(|| {
            // SAFETY: `dlopen` has failed just now, so there is a message.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) };
            why.to_string_lossy().into_owned().into()
        })
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &CStr) -> Result<NonNull<c_void>, Failure> {
        // SAFETY: looks a name up in an open library.
        let address = unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) };
        NonNull::new(address).ok_or_else(|| format!("no {name:?}").into())
    }

    pub fn close(self) {
        // SAFETY: opened once, closed once; nothing of it is used.
        let result = unsafe { libc::dlclose(self.0.as_ptr()) };
        assert_eq!(result, 0);
    }
}

/// A path as C has it.
pub fn c_path(path: &Path) -> Result<CString, Failure> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

impl Library {
    /// Reads a byte of each page of the library, which has this symbol.
    pub fn touch(&self, symbol: &CStr) {
        let address = self.symbol(symbol).expect("it has the symbol");
        let mut pages = Pages { of: address.as_ptr().addr() as u64 };
        // SAFETY: the function takes a `Pages`.
        unsafe { libc::dl_iterate_phdr(Some(touch_pages), (&raw mut pages).cast()) };
    }
}

/// Whose pages to touch: those of the library with this address in it.
struct Pages {
    of: u64,
}

extern "C" fn touch_pages(info: *mut libc::dl_phdr_info, _: usize, pages: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` gives a valid one.
    let info = unsafe { &*info };
    // SAFETY: from `touch`.
    let pages = unsafe { &*pages.cast::<Pages>() };
    // SAFETY: as many as there are.
    let all = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let loaded = || all.iter().filter(|segment| segment.p_type == libc::PT_LOAD);
    let start = |segment: &libc::Elf64_Phdr| info.dlpi_addr + segment.p_vaddr;
    if !loaded().any(|one| (start(one)..start(one) + one.p_memsz).contains(&pages.of)) {
        return 0;
    }
    for segment in loaded() {
        let start = std::ptr::with_exposed_provenance(start(segment) as usize);
        crate::touch(start, segment.p_memsz as usize);
    }
    1
}
