//! The functions that compiled code calls without being told: `memcpy` and its family.
//!
//! ```text
//!   1–3, 4–7, 8–15, 16–32 bytes   two overlapping moves, all loads before all stores
//!   more                          16 bytes at a time, the last (or first) 16 loaded beforehand
//! ```
//!
//! In assembly, because a compiler recognises such loops and turns them into calls to these very
//! functions. They use no stack, so the default CFI row describes them throughout and a fault in
//! the middle of a copy unwinds.

use core::arch::naked_asm;

/// # Safety
///
/// As in C: both ranges are valid, and do not overlap.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    naked_asm!(".cfi_startproc", "jmp {memmove}", ".cfi_endproc", memmove = sym memmove)
}

/// # Safety
///
/// As in C: both ranges are valid; they may overlap.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        ".cfi_startproc",
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 3f",
        "movups xmm1, [rsi + rdx - 16]",
        "cmp rdx, 32",
        "ja 5f",
        "movups xmm0, [rsi]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        // Fewer than 16.
        "3:",
        "cmp edx, 8",
        "jb 3f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "3:",
        "cmp edx, 4",
        "jb 3f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "3:",
        "test edx, edx",
        "je 4f",
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi + rdx - 1]",
        "mov r10, rdx",
        "shr r10, 1",
        "movzx r9d, byte ptr [rsi + r10]",
        "mov [rdi], cl",
        "mov [rdi + r10], r9b",
        "mov [rdi + rdx - 1], r8b",
        "4:",
        "ret",
        // More than 32. The destination starts inside the source: from the end down.
        "5:",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 7f",
        "lea r8, [rdi + rdx - 16]",
        "2:",
        "movups xmm0, [rsi]",
        "movups [rdi], xmm0",
        "add rsi, 16",
        "add rdi, 16",
        "cmp rdi, r8",
        "jb 2b",
        "movups [r8], xmm1",
        "ret",
        "7:",
        "movups xmm2, [rsi]",
        "2:",
        "movups xmm0, [rsi + rdx - 16]",
        "movups [rdi + rdx - 16], xmm0",
        "sub rdx, 16",
        "cmp rdx, 16",
        "ja 2b",
        "movups [rdi], xmm2",
        "ret",
        ".cfi_endproc",
    )
}

/// # Safety
///
/// As in C: the range is valid.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memset(dst: *mut u8, byte: i32, len: usize) -> *mut u8 {
    naked_asm!(
        ".cfi_startproc",
        "mov rax, rdi",
        "movzx ecx, sil",
        "mov r8, 0x0101010101010101",
        "imul rcx, r8",
        "cmp rdx, 16",
        "jb 3f",
        "movq xmm0, rcx",
        "punpcklqdq xmm0, xmm0",
        "lea r8, [rdi + rdx - 16]",
        "2:",
        "movups [rdi], xmm0",
        "add rdi, 16",
        "cmp rdi, r8",
        "jb 2b",
        "movups [r8], xmm0",
        "ret",
        "3:",
        "cmp edx, 8",
        "jb 3f",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], rcx",
        "ret",
        "3:",
        "cmp edx, 4",
        "jb 3f",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], ecx",
        "ret",
        "3:",
        "test edx, edx",
        "je 4f",
        "mov [rdi], cl",
        "mov [rdi + rdx - 1], cl",
        "shr rdx, 1",
        "mov [rdi + rdx], cl",
        "4:",
        "ret",
        ".cfi_endproc",
    )
}

/// # Safety
///
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    naked_asm!(
        ".cfi_startproc",
        "cmp rdx, 8",
        "jb 3f",
        "2:",
        "mov rax, [rdi]",
        "mov rcx, [rsi]",
        "cmp rax, rcx",
        "jne 5f",
        "add rdi, 8",
        "add rsi, 8",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 2b",
        "3:",
        "test edx, edx",
        "je 4f",
        "2:",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "sub eax, ecx",
        "jne 6f",
        "inc rdi",
        "inc rsi",
        "dec edx",
        "jne 2b",
        "4:",
        "xor eax, eax",
        "6:",
        "ret",
        // The first byte that differs decides: make it the most significant one.
        "5:",
        "bswap rax",
        "bswap rcx",
        "cmp rax, rcx",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
        ".cfi_endproc",
    )
}

/// # Safety
///
/// As [`memcmp`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    naked_asm!(".cfi_startproc", "jmp {memcmp}", ".cfi_endproc", memcmp = sym memcmp)
}

/// # Safety
///
/// As in C: `text` ends with a NUL.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    naked_asm!(
        ".cfi_startproc",
        "mov rax, rdi",
        "jmp 3f",
        "2:",
        "inc rax",
        "3:",
        "cmp byte ptr [rax], 0",
        "jne 2b",
        "sub rax, rdi",
        "ret",
        ".cfi_endproc",
    )
}
