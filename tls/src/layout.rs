//! Decides where each module's TLS block goes. Arithmetic only.
//!
//! ```text
//!  low ─────────────────────────────────────────────────────────► high
//!  │ padding │ free │ block │ free │ block │ kernel block │ TCB │
//!            ╰──────────── surplus ────────╯              ▲ TP
//!  distance: far ◄──────────────────────────────────────── 0
//! ```
//!
//! Variant II (ELF TLS §3): everything is measured as a distance below TP, and a block's own
//! distance is that of its first byte. Distances never change once given out: code baked them in.
#![forbid(unsafe_code)]

use core::alloc::Layout;
use core::ops::Range;

use alloc::vec::Vec;

use crate::error::{LayoutError, ReserveError};

/// The largest distance below TP that a signed 32-bit offset can express.
const REACH: usize = 1 << 31;

/// Every area is aligned to at least this many bytes, so that a later module may ask for up to
/// a page.
const AREA_ALIGN: usize = 4096;

/// Distance of a block's first byte from TP in bytes, as `R_X86_64_TPOFF32` wants it.
///
/// Never positive; zero only for a block that has no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TpOffset(i32);

impl TpOffset {
    /// That of TP itself, where blocks without a byte are.
    pub const ZERO: Self = Self(0);

    /// The offset of what lies `distance` bytes below TP.
    ///
    /// Every caller holds a distance inside an [`AreaLayout`], which reaches no further than
    /// [`REACH`].
    pub(crate) const fn below(distance: usize) -> Self {
        debug_assert!(distance <= REACH);
        Self((distance as u32).wrapping_neg() as i32)
    }

    /// The offset in bytes, to be added to TP.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// What a module's `PT_TLS` segment (or its `.tdata` and `.tbss` sections) asks for: the bytes
/// each task's block starts with, its size, its alignment, and where between two multiples of
/// that alignment it starts.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    tdata: &'a [u8],
    size: usize,
    align: usize,
    skew: usize,
}

impl<'a> Template<'a> {
    /// A module without thread-local variables.
    pub const EMPTY: Template<'static> = Template { tdata: &[], size: 0, align: 1, skew: 0 };

    /// A block of `size` bytes (`p_memsz`) that starts with `tdata` (`p_filesz` bytes), is zero
    /// after it, and starts at a multiple of `align` (`p_align`; zero means one).
    ///
    /// # Errors
    /// `tdata` longer than `size`, an `align` that is not a power of two, or a block out of reach
    /// of a 32-bit offset.
    pub const fn new(tdata: &'a [u8], size: usize, align: usize) -> Result<Self, LayoutError> {
        let align = if align == 0 { 1 } else { align };
        if tdata.len() > size {
            return Err(LayoutError::ImageTooLarge { image: tdata.len(), size });
        }
        if !align.is_power_of_two() {
            return Err(LayoutError::BadAlignment(align));
        }
        if size > REACH || align > REACH {
            return Err(LayoutError::TooLarge { size, align, surplus: 0 });
        }
        Ok(Self { tdata, size, align, skew: 0 })
    }

    /// The same block for a segment that starts at `address` (`p_vaddr`).
    ///
    /// A linker keeps variables aligned by making TP, not the segment's start, a multiple of
    /// `p_align`; lld lets a segment start elsewhere when `.tbss` is aligned more strictly than
    /// `.tdata` before it. Only `address` modulo the alignment matters.
    pub const fn starting_at(self, address: u64) -> Self {
        // The mask keeps the value below `align`, a `usize`.
        let skew = (address & (self.align as u64 - 1)) as usize;
        Self { skew, ..self }
    }

    /// The bytes every block starts with.
    pub const fn tdata(&self) -> &'a [u8] {
        self.tdata
    }

    /// The size of the block in bytes, zeroed part included.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The alignment in bytes, a power of two.
    pub const fn align(&self) -> usize {
        self.align
    }

    /// How far below TP the block starts if it is the program's own (ELF TLS §3.4.6).
    ///
    /// GNU ld and lld place TP at the segment's end rounded up to its alignment, in the address
    /// space where the segment starts at `p_vaddr`.
    const fn distance(&self) -> usize {
        (self.skew + self.size).next_multiple_of(self.align) - self.skew
    }
}

/// Where the parts of every area lie. The same for all areas of a registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AreaLayout {
    kernel: Block,
    surplus_end: usize,
    tp: usize,
    memory: Layout,
}

impl AreaLayout {
    /// The layout of areas that hold `kernel`, at least `surplus` bytes for others, and a TCB.
    pub(crate) const fn new(
        kernel: &Template<'_>,
        surplus: usize,
        tcb: Layout,
    ) -> Result<Self, LayoutError> {
        let too_large =
            Err(LayoutError::TooLarge { size: kernel.size, align: kernel.align, surplus });
        let align = max(AREA_ALIGN, max(kernel.align, tcb.align()));
        let distance = kernel.distance();
        if distance > REACH || surplus > REACH - distance {
            return too_large;
        }
        let surplus_end = distance + surplus;
        let tp = surplus_end.next_multiple_of(align);
        let Ok(memory) = Layout::from_size_align(tp + tcb.size(), align) else {
            return too_large;
        };
        Ok(Self { kernel: Block { distance, size: kernel.size }, surplus_end, tp, memory })
    }

    /// The kernel's block.
    pub(crate) const fn kernel(&self) -> Block {
        self.kernel
    }

    /// The distances that later modules' blocks may occupy.
    pub(crate) const fn surplus(&self) -> Range<usize> {
        self.kernel.distance..self.surplus_end
    }

    /// Bytes from the start of the memory to TP.
    pub(crate) const fn tp(&self) -> usize {
        self.tp
    }

    /// Size and alignment of the memory of one area.
    pub(crate) const fn memory(&self) -> Layout {
        self.memory
    }
}

/// `usize::max`, which is not const.
const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// A piece of every area: its first byte is `distance` below TP, and `size` bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) distance: usize,
    pub(crate) size: usize,
}

impl Block {
    /// The block's offset from TP.
    pub(crate) const fn offset(self) -> TpOffset {
        TpOffset::below(self.distance)
    }
}

/// Hands out blocks of the surplus: the smallest gap that fits, the one nearest to TP among equals.
///
/// Only the taken blocks are recorded; gaps are what lies between them. So neighbouring gaps are
/// one by nature, and giving back needs no memory.
#[derive(Debug)]
pub(crate) struct Surplus {
    /// The distances there are to give.
    range: Range<usize>,
    /// Given out, none empty, nearest to TP first.
    taken: Vec<Block>,
}

impl Surplus {
    /// All of `range` is free.
    pub(crate) const fn new(range: Range<usize>) -> Self {
        Self { range, taken: Vec::new() }
    }

    /// A block of `size` bytes whose distance is a multiple of `align`, a power of two.
    ///
    /// A block without bytes takes no space and always succeeds.
    pub(crate) fn take(&mut self, size: usize, align: usize) -> Result<Block, ReserveError> {
        if size == 0 {
            return Ok(Block { distance: 0, size: 0 });
        }
        let fits = |(index, gap): (usize, Range<usize>)| {
            let distance = gap.start.checked_add(size)?.checked_next_multiple_of(align)?;
            (distance <= gap.end).then_some((gap.len(), index, distance))
        };
        let Some((_, index, distance)) = self.gaps().enumerate().filter_map(fits).min() else {
            let largest = self.gaps().map(|gap| gap.len()).max().unwrap_or(0);
            let free = self.free();
            return Err(ReserveError::SurplusExhausted { needed: size, align, free, largest });
        };
        self.taken.try_reserve(1).map_err(|_| ReserveError::OutOfMemory)?;
        let block = Block { distance, size };
        self.taken.insert(index, block);
        Ok(block)
    }

    /// Makes a block that [`take`](Self::take) returned free again.
    pub(crate) fn give_back(&mut self, block: Block) {
        self.taken.retain(|taken| *taken != block);
    }

    /// Free bytes, all gaps together.
    pub(crate) fn free(&self) -> usize {
        self.gaps().map(|gap| gap.len()).sum()
    }

    /// The gap before each taken block and the one after the last; some may be empty.
    fn gaps(&self) -> impl Iterator<Item = Range<usize>> {
        let starts =
            core::iter::once(self.range.start).chain(self.taken.iter().map(|block| block.distance));
        let ends = (self.taken.iter().map(|block| block.distance - block.size))
            .chain(core::iter::once(self.range.end));
        starts.zip(ends).map(|(start, end)| start..end)
    }
}

#[cfg(test)]
mod tests;
