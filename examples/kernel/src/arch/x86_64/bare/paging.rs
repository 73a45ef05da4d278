//! The address space: no page is ever writable and executable, under any of its addresses.
//!
//! ```text
//!   0          nothing
//!   2 MiB      image: text RX │ rodata R │ data RW │ symbols R      one to one, 4 KiB pages
//!              page tables │ heap: RW                               one to one, 2 MiB pages
//!   1 GiB      windows: frames of the pool, one address each
//!   2 GiB      initrd: R
//! ```

use core::ops::Range;

use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::{
    FlagUpdateError, MapToError, Translate, TranslateResult, UnmapError,
};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags as Flags, PhysFrame,
    Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::frames::FramePool;
use super::plan::Plan;
use crate::arch::x86_64::image::Image;
use crate::machine::{Access, MapError, PAGE, Pages};

/// How many pages are taken away before the other CPUs are asked to forget them.
pub(super) const BATCH: usize = 64;

/// Where the initrd is shown.
const INITRD: u64 = 2 << 30;

/// The page tables in use, and what they can be extended with.
pub(super) struct AddressSpace {
    tables: OffsetPageTable<'static>,
    spare: TableFrames,
    pool: FramePool,
}

/// Page tables and how to make more, before there is a heap.
pub(super) struct Skeleton {
    tables: OffsetPageTable<'static>,
    spare: TableFrames,
}

/// Frames for page tables, used from the first to the last and never given back: a table that was
/// needed once will be needed again.
struct TableFrames(Range<u64>);

// SAFETY: the range is memory that the plan sets aside for page tables alone, and every frame is
// given out once.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size4KiB>> {
        let address = self.0.start;
        if address >= self.0.end {
            return None;
        }
        self.0.start += PAGE as u64;
        Some(PhysFrame::containing_address(PhysAddr::new(address)))
    }
}

impl Skeleton {
    /// Makes page tables for the image and all that is mapped one to one, and switches to them.
    ///
    /// # Errors
    ///
    /// Out of memory for tables.
    ///
    /// # Safety
    ///
    /// 1. Memory is mapped one to one, and `plan` and `image` describe it.
    /// 2. What is used after this is part of the image, the tables or the heap.
    pub(super) unsafe fn enter(plan: &Plan, image: &Image) -> Result<Self, MapError> {
        let mut spare = TableFrames(plan.tables.clone());
        let root = spare.allocate_frame().ok_or(MapError::OutOfTables)?;
        let table = core::ptr::with_exposed_provenance_mut::<PageTable>(
            root.start_address().as_u64() as usize,
        );
        // SAFETY: the frame is free memory, mapped one to one (1).
        unsafe { table.write(PageTable::new()) };
        // SAFETY: just initialised, aligned as a frame is, and used through this alone.
        let root_table = unsafe { &mut *table };
        // SAFETY: table frames are mapped one to one: by the boot loader's tables now (1), and by
        // these themselves once they are in use.
        let tables = unsafe { OffsetPageTable::new(root_table, VirtAddr::zero()) };
        let mut space = Self { tables, spare };
        let parts = [
            (Some(image.text), Access::ReadExecute),
            (Some(image.rodata), Access::Read),
            (Some(image.data), Access::ReadWrite),
            (image.symbols, Access::Read),
        ];
        for (pages, access) in parts {
            let Some(pages) = pages else { continue };
            space.show(pages.start(), pages.start()..pages.end(), access)?;
        }
        space.map_directly(plan.tables.start..plan.heap.end)?;
        // SAFETY:
        // 1. The tables map the running code, the stack and all data, as before (2).
        // 2. Nothing refers to the rest.
        unsafe { Cr3::write(root, Cr3Flags::empty()) };
        Ok(space)
    }

    /// Shows a page of a device's registers where it is.
    pub(super) fn show_device(&mut self, page: u64) -> Result<(), MapError> {
        let frame = PhysFrame::<Size4KiB>::containing_address(PhysAddr::new(page));
        let flags = flags(Access::ReadWrite) | Flags::NO_CACHE | Flags::WRITE_THROUGH;
        // SAFETY: the page is that of a device, which nobody takes for memory.
        let mapped = unsafe { self.tables.identity_map(frame, flags, &mut self.spare) };
        mapped.map_err(|error| map_error(page, &error))?.ignore();
        Ok(())
    }

    /// Shows a page of code below 1 MiB where it is.
    pub(super) fn show_code(&mut self, page: u64) -> Result<(), MapError> {
        self.show(page, page..page + PAGE as u64, Access::ReadExecute)
    }

    /// Shows the initrd, read-only; returns its address.
    pub(super) fn show_initrd(&mut self, initrd: &Range<u64>) -> Result<u64, MapError> {
        let skipped = initrd.start % PAGE as u64;
        let frames = initrd.start - skipped..initrd.end.next_multiple_of(PAGE as u64);
        self.show(INITRD, frames, Access::Read)?;
        Ok(INITRD + skipped)
    }

    /// Maps physical memory from the page at `start` on, by small pages.
    fn show(&mut self, start: u64, frames: Range<u64>, access: Access) -> Result<(), MapError> {
        for (index, frame) in frames.step_by(PAGE).enumerate() {
            let page = Page::containing_address(VirtAddr::new(start + (index * PAGE) as u64));
            let frame = PhysFrame::containing_address(PhysAddr::new(frame));
            map_one(&mut self.tables, &mut self.spare, page, frame, access)?;
        }
        Ok(())
    }

    /// Maps physical memory where it is, readable and writable, by large pages.
    fn map_directly(&mut self, range: Range<u64>) -> Result<(), MapError> {
        let flags = flags(Access::ReadWrite);
        for address in range.step_by(super::plan::LARGE_PAGE as usize) {
            let frame = PhysFrame::<Size2MiB>::containing_address(PhysAddr::new(address));
            // SAFETY: the plan sets this memory aside for tables and the heap; nothing else has it.
            let mapped = unsafe { self.tables.identity_map(frame, flags, &mut self.spare) };
            mapped.map_err(|error| map_error(address, &error))?.ignore();
        }
        Ok(())
    }

    /// The finished address space. Needs the heap.
    pub(super) fn finish(self, pool: FramePool) -> AddressSpace {
        AddressSpace { tables: self.tables, spare: self.spare, pool }
    }
}

impl AddressSpace {
    /// Backs pages with zeroed frames of the pool; all or nothing.
    ///
    /// # Safety
    ///
    /// As [`Machine::map`](crate::machine::Machine::map).
    pub(super) unsafe fn map(&mut self, pages: Pages) -> Result<(), MapError> {
        let (needed, free) = (pages.count(), self.pool.free());
        // Before anything is mapped: the tables for that would stay.
        if needed > free {
            return Err(MapError::OutOfFrames { needed, free });
        }
        for index in 0..needed {
            if let Err(error) = self.map_fresh(page(pages, index), needed, free) {
                // Nobody has used them yet, so no CPU has them cached.
                for mapped in 0..index {
                    let frame = self.take_away(page(pages, mapped));
                    self.pool.give_back(frame);
                }
                return Err(error);
            }
        }
        let start = core::ptr::with_exposed_provenance_mut::<u8>(pages.start() as usize);
        // SAFETY: just mapped, writable, and the caller's alone.
        unsafe { start.write_bytes(0, pages.size()) };
        Ok(())
    }

    fn map_fresh(&mut self, page: Page, needed: usize, free: usize) -> Result<(), MapError> {
        let frame = self.pool.take().ok_or(MapError::OutOfFrames { needed, free })?;
        map_one(&mut self.tables, &mut self.spare, page, frame, Access::ReadWrite)
            .inspect_err(|_| self.pool.give_back(frame))
    }

    /// Changes the access to mapped pages. Says whether that changed anything, so that CPUs must
    /// forget what they cached.
    ///
    /// # Safety
    ///
    /// As [`Machine::protect`](crate::machine::Machine::protect).
    pub(super) unsafe fn protect(
        &mut self,
        pages: Pages,
        access: Access,
    ) -> (bool, Result<(), MapError>) {
        let (mut result, mut changed) = (Ok(()), false);
        for index in 0..pages.count() {
            let page = page(pages, index);
            match self.tables.translate(page.start_address()) {
                TranslateResult::Mapped { flags: now, .. } if now == flags(access) => continue,
                _ => changed = true,
            }
            // SAFETY: the caller owns the pages and vouches for their use.
            match unsafe { self.tables.update_flags(page, flags(access)) } {
                Ok(later) => later.ignore(),
                Err(FlagUpdateError::PageNotMapped | FlagUpdateError::ParentEntryHugePage) => {
                    result = Err(MapError::Unexpected { page: page.start_address().as_u64() });
                    break;
                }
            }
        }
        (changed, result)
    }

    /// Takes pages away, [`BATCH`] at most; says which frames they were. CPUs may still have them
    /// cached.
    ///
    /// # Safety
    ///
    /// As [`Machine::unmap`](crate::machine::Machine::unmap).
    pub(super) unsafe fn unmap(&mut self, pages: Pages, frames: &mut [Option<PhysFrame>; BATCH]) {
        for (index, frame) in (0..pages.count()).zip(frames) {
            *frame = Some(self.take_away(page(pages, index)));
        }
    }

    /// Makes frames that [`unmap`](Self::unmap) took away free again, now that no CPU can reach them.
    pub(super) fn give_back(&mut self, frames: &[Option<PhysFrame>; BATCH]) {
        for frame in frames.iter().flatten() {
            self.pool.give_back(*frame);
        }
    }

    /// Takes a page out of the tables; CPUs may still have it cached.
    fn take_away(&mut self, page: Page) -> PhysFrame {
        // One that nobody may access has its frame, but would count as unmapped.
        // SAFETY: the page's owner gives it up.
        if let Ok(later) = unsafe { self.tables.update_flags(page, flags(Access::Read)) } {
            later.ignore();
        }
        match self.tables.unmap(page) {
            Ok((frame, later)) => {
                later.ignore();
                frame
            }
            Err(
                error @ (UnmapError::PageNotMapped
                | UnmapError::ParentEntryHugePage
                | UnmapError::InvalidFrameAddress(_)),
            ) => panic!("page {page:?} was not mapped by this kernel: {error:?}"),
        }
    }
}

fn map_one(
    tables: &mut OffsetPageTable<'static>,
    spare: &mut TableFrames,
    page: Page,
    frame: PhysFrame,
    access: Access,
) -> Result<(), MapError> {
    // SAFETY: the frame is either one of the image or the initrd, which have one address each, or
    // one that the pool gave out, which has no other address.
    let mapped = unsafe { tables.map_to(page, frame, flags(access), spare) };
    // There may be a stale entry only where a page was mapped before, and unmapping flushed that.
    mapped.map_err(|error| map_error(page.start_address().as_u64(), &error))?.ignore();
    Ok(())
}

fn map_error<S: x86_64::structures::paging::PageSize>(
    page: u64,
    error: &MapToError<S>,
) -> MapError {
    match error {
        MapToError::FrameAllocationFailed => MapError::OutOfTables,
        MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_) => {
            MapError::Unexpected { page }
        }
    }
}

fn page(pages: Pages, index: usize) -> Page {
    Page::containing_address(VirtAddr::new(pages.start() + (index * PAGE) as u64))
}

const fn flags(access: Access) -> Flags {
    match access {
        // Not present, but the entry keeps its frame.
        Access::None => Flags::NO_EXECUTE,
        Access::Read => Flags::PRESENT.union(Flags::NO_EXECUTE),
        Access::ReadWrite => Flags::PRESENT.union(Flags::WRITABLE).union(Flags::NO_EXECUTE),
        Access::ReadExecute => Flags::PRESENT,
    }
}
