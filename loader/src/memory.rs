//! Memory for loaded objects: what the kernel supplies, and how it is sealed.
//!
//! ```text
//!   Memory::map ──► Region (RW, never executable) ── seal ──► Sealed: text RX │ rodata R │ data RW
//!                     │ drop                                    │ drop
//!                     └──────────────► Memory::unmap ◄──────────┘
//! ```
//!
//! Promise: no byte is ever writable and executable at the same time, and what was mapped is
//! unmapped exactly once, on every path.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use crate::placement::Layout;

/// The size of a page in bytes; all parts of an object start at a multiple of it.
pub const PAGE: usize = 4096;

/// What code may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// The part of loading that only the kernel can do.
///
/// # Safety
///
/// 1. [`map`](Self::map) returns memory that is valid for reads and writes of `size` bytes, that
///    nobody else uses until it is unmapped, and that is page-aligned and zero.
/// 2. [`protect`](Self::protect) and [`unmap`](Self::unmap) touch nothing but the pages named.
pub unsafe trait Memory: Sync {
    /// Maps `size` bytes, a multiple of [`PAGE`], readable and writable, not executable, all zero.
    ///
    /// The memory should lie within 2 GiB of the program, for code that addresses its data
    /// relative to itself; calls reach everything. Code compiled with
    /// `-Crelocation-model=static` wants it, and the program, in the low 2 GiB. Where it lies
    /// elsewhere, what does not reach is an error of [`Loader::load`](crate::Loader::load).
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing mapped.
    fn map(&self, size: usize) -> Result<NonNull<u8>, MapError>;

    /// Changes what may be done with `size` bytes from `start`, both multiples of [`PAGE`], on
    /// every CPU, before it returns.
    ///
    /// # Errors
    ///
    /// [`MapError`], with the access of the pages unspecified; they will be unmapped.
    ///
    /// # Safety
    ///
    /// The pages must be part of one mapping of [`map`](Self::map), and nobody may be using them
    /// in a way that `access` forbids.
    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), MapError>;

    /// Takes back what [`map`](Self::map) returned, whatever access its pages have by now.
    ///
    /// # Safety
    ///
    /// `start` and `size` must be those of one mapping, which nobody uses any more.
    unsafe fn unmap(&self, start: NonNull<u8>, size: usize);
}

/// Why the kernel could not map or protect memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// No room for this many bytes.
    Exhausted {
        /// Bytes asked for.
        size: usize,
    },
    /// The pages could not get the access asked for.
    Protect {
        /// The first byte.
        start: u64,
        /// How many bytes.
        size: usize,
        /// The access.
        access: Access,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exhausted { size } => write!(f, "no room to map {size} bytes"),
            Self::Protect { start, size, access } => {
                write!(f, "{size} bytes at {start:#x} could not be made {access}")
            }
        }
    }
}

impl core::error::Error for MapError {}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read-only",
            Self::ReadWrite => "writable",
            Self::ReadExecute => "executable",
        })
    }
}

/// A mapping that is still writable all over.
pub(crate) struct Region<'k>(Mapping<'k>);

/// A mapping whose parts have their final access.
pub(crate) struct Sealed<'k>(Mapping<'k>);

struct Mapping<'k> {
    memory: &'k dyn Memory,
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping belongs to this value alone (contract 1 of `Memory`), and `Memory` is `Sync`,
// so that it may be unmapped from any thread.
unsafe impl Send for Mapping<'_> {}
// SAFETY: a shared mapping only gives out its address and, once sealed, its read-only bytes.
unsafe impl Sync for Mapping<'_> {}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: `start` and `size` are those of the mapping this value owns; it is dropped once,
        // and everything borrowed from it is gone.
        unsafe { self.memory.unmap(self.start, self.size) }
    }
}

impl Mapping<'_> {
    fn address(&self) -> u64 {
        // Exposed: the object's code, and pointers to it, are made from this number.
        self.start.as_ptr().expose_provenance() as u64
    }
}

impl<'k> Region<'k> {
    /// Maps `size` bytes, a multiple of [`PAGE`].
    pub fn map(memory: &'k dyn Memory, size: usize) -> Result<Self, MapError> {
        let start = memory.map(size)?;
        Ok(Self(Mapping { memory, start, size }))
    }

    /// The address of the first byte.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// All bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY:
        // 1. `start` is valid for `size` bytes, initialised to zero, and nobody else uses them
        //    (contract 1 of `Memory`).
        // 2. The exclusive borrow of `self` makes this the only slice.
        unsafe { core::slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.size) }
    }

    /// Writes a word of a part that is not sealed, `at` bytes from the start; both must be inside.
    pub fn put_word(&mut self, at: usize, word: u64) {
        assert!(at.is_multiple_of(align_of::<u64>()) && at + size_of::<u64>() <= self.0.size);
        // SAFETY: inside the mapping (just checked).
        let place = unsafe { self.0.start.add(at) };
        // SAFETY: writable, as the part is not sealed, and aligned, as mappings are to pages; the
        // exclusive borrow of `self` says that nobody has a slice of it.
        unsafe { place.cast::<u64>().write(word) };
    }

    /// Gives every part its final access. When the code is executable and the rest still writable,
    /// `complete` is called.
    pub fn seal(
        mut self,
        layout: &Layout,
        complete: impl FnOnce(&mut Self),
    ) -> Result<Sealed<'k>, MapError> {
        let mut complete = Some(complete);
        let parts = [
            (&layout.text, Access::ReadExecute),
            (&layout.rodata, Access::Read),
            // Mapped so already, but nothing obliges `map` to use the same kind of pages.
            (&layout.data, Access::ReadWrite),
        ];
        for (part, access) in parts {
            if access == Access::Read
                && let Some(complete) = complete.take()
            {
                complete(&mut self);
            }
            let size = part.len().next_multiple_of(PAGE);
            if size == 0 {
                continue;
            }
            debug_assert!(part.start.is_multiple_of(PAGE) && part.start + size <= self.0.size);
            // SAFETY: a layout's parts lie inside its size, which is that of the mapping.
            let start = unsafe { self.0.start.add(part.start) };
            // SAFETY: the pages are part of this mapping, and nobody uses them: the region is ours
            // by value.
            unsafe { self.0.memory.protect(start, size, access)? };
        }
        Ok(Sealed(self.0))
    }
}

impl Sealed<'_> {
    /// The address of the first byte.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Bytes of the part that is read-only now, for as long as the mapping lives.
    ///
    /// # Safety
    ///
    /// 1. `range` must lie in the part that was sealed with [`Access::Read`].
    /// 2. The slice must not be used after this value is dropped.
    pub unsafe fn read_only(&self, range: Range<usize>) -> &'static [u8] {
        // SAFETY:
        // 1. The bytes are inside the mapping and nobody can write to them (clause 1).
        // 2. They stay mapped as long as the slice is used (clause 2).
        unsafe { core::slice::from_raw_parts(self.0.start.as_ptr().add(range.start), range.len()) }
    }
}
