//! From QEMU's 32-bit entry to Rust.
//!
//! ```text
//!   PVH note ─► pvh_start: flat 32-bit, no paging, ebx = start info
//!     identity map of 4 GiB · PAE · NX · long mode · paging · SSE · 64-bit code segment
//!   ─► long_start: 64-bit, boot stack ─► bare::start(start info)
//! ```
//!
//! These page tables and this GDT only last until Rust has made its own.

use core::arch::global_asm;

/// Entries of a page table.
const ENTRIES: usize = 512;
/// Each maps 1 GiB by pages of 2 MiB.
const DIRECTORIES: usize = 4;
const PAGE: usize = 4096;

/// Present and writable, and for a leaf: a page of 2 MiB (Intel SDM volume 3, §4.5).
const TABLE: u32 = 0b11;
const LEAF: u32 = 1 << 7 | TABLE;
const LEAF_SIZE: u32 = 2 << 20;

/// CR4: physical address extension, `fxsave` and SSE, unmasked SSE exceptions.
pub(super) const CR4: u32 = 1 << 5 | 1 << 9 | 1 << 10;
/// The extended feature enable register, and its bits long mode and no-execute.
pub(super) const EFER: u32 = 0xc000_0080;
pub(super) const EFER_BITS: u32 = 1 << 8 | 1 << 11;
/// CR0: protection, monitor coprocessor, native x87 errors, write protection in the kernel too,
/// paging; not: emulation, task switched.
pub(super) const CR0_SET: u32 = 1 | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;
pub(super) const CR0_CLEAR: u32 = 1 << 2 | 1 << 3;

/// Xen's note type for the physical address of the 32-bit entry.
const PHYS32_ENTRY: u32 = 18;

global_asm!(
    // The note that makes QEMU enter a 64-bit file here.
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 3f - 2f",
    ".long 5f - 4f",
    ".long {note}",
    "2: .asciz \"Xen\"",
    "3: .balign 4",
    "4: .quad unspool_kernel_pvh_start",
    "5: .balign 4",
    ".popsection",
    // Page tables: level 4, level 3, directories.
    ".pushsection .bss.boot_tables, \"aw\", @nobits",
    ".balign {page}",
    "unspool_kernel_boot_tables: .skip {page} * (2 + {directories})",
    ".popsection",
    ".pushsection .rodata.boot_gdt, \"a\", @progbits",
    ".balign 8",
    // Null; 64-bit code; flat data.
    ".globl unspool_kernel_boot_gdt",
    ".hidden unspool_kernel_boot_gdt",
    "unspool_kernel_boot_gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff",
    "2: .short 2b - unspool_kernel_boot_gdt - 1",
    ".long unspool_kernel_boot_gdt",
    ".set unspool_kernel_boot_gdtr, 2b",
    ".popsection",
    ".pushsection .text.boot, \"ax\", @progbits",
    ".code32",
    ".type unspool_kernel_pvh_start, @function",
    "unspool_kernel_pvh_start:",
    "cli",
    "cld",
    "mov esp, offset __boot_stack_top",
    // Directories: every entry a page of 2 MiB, identity mapped.
    "mov edi, offset unspool_kernel_boot_tables + 2 * {page}",
    "mov eax, {leaf}",
    "mov ecx, {directories} * {entries}",
    "2:",
    "mov dword ptr [edi], eax",
    "mov dword ptr [edi + 4], 0",
    "add eax, {leaf_size}",
    "add edi, 8",
    "dec ecx",
    "jnz 2b",
    // Level 3: one entry for each directory.
    "mov edi, offset unspool_kernel_boot_tables + {page}",
    "mov eax, offset unspool_kernel_boot_tables + 2 * {page} + {table}",
    "mov ecx, {directories}",
    "2:",
    "mov dword ptr [edi], eax",
    "add eax, {page}",
    "add edi, 8",
    "dec ecx",
    "jnz 2b",
    // Level 4: one entry.
    "mov edi, offset unspool_kernel_boot_tables",
    "mov eax, offset unspool_kernel_boot_tables + {page} + {table}",
    "mov dword ptr [edi], eax",
    "mov cr3, edi",
    "mov eax, cr4",
    "or eax, {cr4}",
    "mov cr4, eax",
    "mov ecx, {efer}",
    "rdmsr",
    "or eax, {efer_bits}",
    "wrmsr",
    "mov eax, cr0",
    "and eax, {cr0_keep}",
    "or eax, {cr0_set}",
    "mov cr0, eax",
    "lgdt [unspool_kernel_boot_gdtr]",
    // A far return is the far jump that every assembler spells the same.
    "push 8",
    "mov eax, offset unspool_kernel_long_start",
    "push eax",
    "retf",
    ".size unspool_kernel_pvh_start, . - unspool_kernel_pvh_start",
    ".code64",
    ".type unspool_kernel_long_start, @function",
    "unspool_kernel_long_start:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "mov eax, 16",
    "mov ss, eax",
    "mov ds, eax",
    "mov es, eax",
    "lea rsp, [rip + __boot_stack_top]",
    "xor ebp, ebp",
    // The upper half of rbx is undefined after the switch.
    "mov edi, ebx",
    "call {start}",
    "ud2",
    ".cfi_endproc",
    ".size unspool_kernel_long_start, . - unspool_kernel_long_start",
    ".popsection",
    note = const PHYS32_ENTRY,
    page = const PAGE,
    entries = const ENTRIES,
    directories = const DIRECTORIES,
    leaf = const LEAF,
    leaf_size = const LEAF_SIZE,
    table = const TABLE,
    cr4 = const CR4,
    efer = const EFER,
    efer_bits = const EFER_BITS,
    cr0_keep = const !CR0_CLEAR,
    cr0_set = const CR0_SET,
    start = sym super::start,
);
