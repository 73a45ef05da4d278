/*
 * Calls back from a frame of ROOM bytes that has saved the register SAVED, and changed it since.
 *
 * However large the frame and whichever the register, each instruction is at the same place: objects
 * with this function that are loaded to the same address one after the other have the same return
 * address, by which an unwinder must do different things.
 *
 *     void passes(void (*back)(void *), void *argument);
 */
#define TEXT(x) #x
#define VALUE(x) TEXT(x)

__asm__(
    ".pushsection .text.passes, \"ax\", @progbits\n"
    ".globl passes, passes_returns\n"
    ".type passes, @function\n"
    ".type passes_returns, @function\n"
    "passes:\n"
    ".cfi_startproc\n"
    "    push %r" SAVED "\n"
    "    .cfi_adjust_cfa_offset 8\n"
    "    .cfi_offset %r" SAVED ", -16\n"
    "    sub $" VALUE(ROOM) ", %rsp\n"
    "    .cfi_adjust_cfa_offset " VALUE(ROOM) "\n"
    "    mov $0x5a5a5a5a, %e" SAVED "\n"
    "    mov %rdi, %rax\n"
    "    mov %rsi, %rdi\n"
    "    call *%rax\n"
    "passes_returns:\n"
    "    add $" VALUE(ROOM) ", %rsp\n"
    "    .cfi_adjust_cfa_offset -" VALUE(ROOM) "\n"
    "    pop %r" SAVED "\n"
    "    .cfi_adjust_cfa_offset -8\n"
    "    ret\n"
    ".cfi_endproc\n"
    ".size passes, . - passes\n"
    ".popsection\n");
