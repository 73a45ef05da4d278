// Rows of accesses by each model, for glibc's side: linked into a program, the linker relaxes them;
// in a shared library, they stay as they are. The same rows as in `arch/mod.rs`.

        .section .tdata, "awT", @progbits
        .p2align 3
        .type variable, @object
variable:
        .quad 1, 2, 3, 4, 5, 6, 7, 8
        .size variable, 64
        .type other, @object
// Its own, lest the linker relax descriptors of a variable that has a GOT slot anyway.
other:
        .quad 1
        .size other, 8
        .section .tbss, "awT", @nobits
        .zero SIZE
        .text

.macro rows name, access
        .globl \name
        .type \name, @function
        .p2align 6
\name:
        pushq %rbx
        movq %rdi, %rbx
        .p2align 5
9:
        .rept 8
        \access
        .endr
        decq %rbx
        jnz 9b
        popq %rbx
        ret
        .size \name, . - \name
.endm

.macro by_gd
        .byte 0x66
        leaq variable@tlsgd(%rip), %rdi
        .value 0x6666
        rex64
        call __tls_get_addr@PLT
        movq (%rax), %rcx
.endm

.macro by_ld
        leaq variable@tlsld(%rip), %rdi
        call __tls_get_addr@PLT
        movq variable@dtpoff(%rax), %rcx
.endm

.macro by_desc
        leaq variable@tlsdesc(%rip), %rax
        call *variable@tlscall(%rax)
        movq %fs:(%rax), %rcx
.endm

.macro by_ie
        movq other@gottpoff(%rip), %rax
        movq %fs:(%rax), %rcx
.endm

.macro by_le
        movq %fs:variable@tpoff, %rcx
.endm

#ifndef STATIC
        rows general_dynamic, by_gd
        rows local_dynamic, by_ld
#endif
        rows descriptor, by_desc
#ifndef DYNAMIC
        rows initial_exec, by_ie
#endif
#ifdef PROGRAM
        rows local_exec, by_le
#endif
        .section .note.GNU-stack, "", @progbits
