//! Where the linker put the parts of this program.
//!
//! Every symbol is read through a weak reference: a linker script that lacks one gives an error
//! with its name at boot, not at the link.

use core::arch::global_asm;
use core::ops::Range;

use crate::machine::{PAGE, Pages};
use unspool::backtrace::table::{PLACEHOLDER, SymbolTable};
use unspool::unwind::table::{self as frames, FrameTable};

global_asm!(
    ".macro unspool_weak_word name",
    ".weak \\name",
    ".quad \\name",
    ".endm",
    ".pushsection .data.rel.ro.unspool_kernel_image, \"aw\", @progbits",
    ".balign 8",
    ".globl unspool_kernel_image",
    ".hidden unspool_kernel_image",
    ".type unspool_kernel_image, @object",
    "unspool_kernel_image:",
    "unspool_weak_word __text_start",
    "unspool_weak_word __text_end",
    "unspool_weak_word __rodata_start",
    "unspool_weak_word __rodata_end",
    "unspool_weak_word __data_start",
    "unspool_weak_word __data_end",
    "unspool_weak_word __boot_stack_guard",
    "unspool_weak_word __boot_stack_bottom",
    "unspool_weak_word __boot_stack_top",
    "unspool_weak_word __unspool_symbols",
    "unspool_weak_word __build_id_start",
    "unspool_weak_word __build_id_end",
    ".size unspool_kernel_image, . - unspool_kernel_image",
    ".popsection",
    ".purgem unspool_weak_word",
);

/// The table above, in its order; 0 is a symbol that the linker script does not define.
#[repr(C)]
struct Symbols {
    text: [u64; 2],
    rodata: [u64; 2],
    data: [u64; 2],
    boot_stack_guard: u64,
    boot_stack: [u64; 2],
    symbols: u64,
    build_id: [u64; 2],
}

unsafe extern "C" {
    #[link_name = "unspool_kernel_image"]
    safe static SYMBOLS: Symbols;
}

/// A symbol that the linker script does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSymbol(pub &'static str);

/// The parts of the image, each on pages of its own.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub text: Pages,
    pub rodata: Pages,
    pub data: Pages,
    /// The tables of symbols and frames; the placeholder if the build put none in.
    pub symbols: Option<Pages>,
}

impl Image {
    /// The image, as the linker script describes it.
    pub(crate) fn from_linker() -> Result<Self, MissingSymbol> {
        let part = |[start, end]: [u64; 2], names: [&'static str; 2]| {
            if start == 0 {
                return Err(MissingSymbol(names[0]));
            }
            let size = end.checked_sub(start).ok_or(MissingSymbol(names[1]))?;
            Pages::new(start, size as usize).ok_or(MissingSymbol(names[1]))
        };
        Ok(Self {
            text: part(SYMBOLS.text, ["__text_start", "__text_end"])?,
            rodata: part(SYMBOLS.rodata, ["__rodata_start", "__rodata_end"])?,
            data: part(SYMBOLS.data, ["__data_start", "__data_end"])?,
            symbols: Pages::new(SYMBOLS.symbols, tables_size()),
        })
    }

    /// One past the last page.
    pub(crate) fn end(&self) -> u64 {
        self.symbols.map_or(self.data.end(), Pages::end)
    }
}

/// The page below the boot stack, if the linker script keeps one free.
pub(crate) fn boot_stack_guard() -> Option<Pages> {
    Pages::new(SYMBOLS.boot_stack_guard, PAGE).filter(|page| page.start() != 0)
}

/// The stack that the entry point runs on.
pub(crate) fn boot_stack() -> Range<u64> {
    let [bottom, top] = SYMBOLS.boot_stack;
    bottom..top
}

/// The note in which the linker says what it made this program of (`NT_GNU_BUILD_ID`: gABI, note
/// section; three words and `GNU` with its end before it), if the linker script keeps it.
pub(crate) fn build_id() -> Option<&'static [u8]> {
    const HEADER: u64 = 3 * 4 + 4;
    let [start, end] = SYMBOLS.build_id;
    let size = end.checked_sub(start)?.checked_sub(HEADER).filter(|_| start != 0)?;
    let start = core::ptr::with_exposed_provenance((start + HEADER) as usize);
    // SAFETY: a section of the image, which is mapped and stays as it is.
    Some(unsafe { core::slice::from_raw_parts(start, size as usize) })
}

/// How many bytes the tables take that the build put into the image.
fn tables_size() -> usize {
    let frames = frame_bytes();
    match frames.as_ptr_range().end.addr().checked_sub(SYMBOLS.symbols as usize) {
        Some(size) if !frames.is_empty() => size,
        _ => symbol_bytes().len(),
    }
}

/// The symbol table that the build put into the image; not yet checked.
pub(crate) fn symbol_bytes() -> &'static [u8] {
    let start = core::ptr::with_exposed_provenance::<u8>(SYMBOLS.symbols as usize);
    if start.is_null() {
        return &[];
    }
    // SAFETY:
    // 1. The linker script keeps a placeholder of this size at the symbol, which the build
    //    replaces by a table that begins with a header of the same size.
    // 2. The segment is read-only.
    let header = unsafe { &*start.cast::<[u8; PLACEHOLDER]>() };
    let length = SymbolTable::length(header).unwrap_or(PLACEHOLDER);
    // SAFETY: The header gives the table's length, and the build has made the segment as long.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// The table of frames that the build put behind the symbol table; not yet checked.
pub(crate) fn frame_bytes() -> &'static [u8] {
    let symbols = symbol_bytes().len();
    if symbols <= PLACEHOLDER {
        return &[];
    }
    let start = SYMBOLS.symbols + symbols.next_multiple_of(TABLE_ALIGN) as u64;
    let start = core::ptr::with_exposed_provenance::<u8>(start as usize);
    // SAFETY: A build that puts a symbol table in puts a table of frames behind it, or zeros of the
    // size of its header.
    let header = unsafe { &*start.cast::<[u8; frames::PLACEHOLDER]>() };
    let length = FrameTable::length(header).unwrap_or(frames::PLACEHOLDER);
    // SAFETY: as for the symbols.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// Where the second table may begin (bytes).
const TABLE_ALIGN: usize = 16;
