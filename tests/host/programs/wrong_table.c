/* Functions whose tables are wrong on purpose. */

void wrong_cfa(void);
void wrong_register(void);

__asm__(
    ".text\n"
    ".globl wrong_cfa\n"
    ".type wrong_cfa, @function\n"
    "wrong_cfa:\n"
    ".cfi_startproc\n"
    "push %rax\n"
    /* CFA = rsp + 8, but it is rsp + 16. */
    "nop\n"
    "pop %rax\n"
    "ret\n"
    ".cfi_endproc\n"
    ".size wrong_cfa, . - wrong_cfa\n"
    ".globl wrong_register\n"
    ".type wrong_register, @function\n"
    "wrong_register:\n"
    ".cfi_startproc\n"
    "push %rbx\n"
    ".cfi_adjust_cfa_offset 8\n"
    "not %rbx\n"
    /* rbx is on the stack, and nothing says so. */
    "nop\n"
    "nop\n"
    "pop %rbx\n"
    ".cfi_adjust_cfa_offset -8\n"
    "ret\n"
    ".cfi_endproc\n"
    ".size wrong_register, . - wrong_register\n");

int main(void) {
    wrong_cfa();
    wrong_register();
    return 0;
}
