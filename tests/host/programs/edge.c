/* Walks coroutines' stacks, whose tables say that the outermost frame has a caller beyond the end, where
   nothing can be read. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unwind.h>

#define PAGE 4096

static char *top;

/* Calls `body` on the stack with this end; says that the frame began there. */
__attribute__((naked, noinline)) static void call_on(char *end, void (*body)(void)) {
    asm("push %rbx\n\t.cfi_adjust_cfa_offset 8\n\t"
        "mov %rsp, %rbx\n\tmov %rdi, %rsp\n\tcall *%rsi\n\tmov %rbx, %rsp\n\t"
        "pop %rbx\n\t.cfi_adjust_cfa_offset -8\n\tret");
}

static _Unwind_Reason_Code count(struct _Unwind_Context *context, void *seen) {
    ++*(int *)seen;
    return _URC_NO_REASON;
}

__attribute__((noinline)) static void walk(void) {
    int seen = 0;
    _Unwind_Backtrace(count, &seen);
    printf("%s frames\n", seen >= 2 ? "some" : "no");
}

static void *both(void *data) {
    if (data) walk();
    call_on(top, walk);
    walk();
    call_on(top, walk);
    return 0;
}

int main(void) {
    char *stack = mmap(0, 17 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    top = stack + 16 * PAGE;
    mprotect(top, PAGE, PROT_NONE);
    both(0);
    /* Their stacks are mapped later, and so below. */
    for (int round = 0; round < 2; round++) {
        pthread_t thread;
        pthread_create(&thread, 0, both, round ? &thread : 0);
        pthread_join(thread, 0);
    }
    puts("all walks ended");
    return 0;
}
