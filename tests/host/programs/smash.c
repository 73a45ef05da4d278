/* Walks stacks that were overwritten with all kinds of nonsense; then puts them right again. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unwind.h>

#define WORDS 160

static uint64_t state = 0x9e3779b97f4a7c15, kept[WORDS];
static char *forbidden, *heap;
static long walks, frames;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 8;
}

static _Unwind_Reason_Code count(struct _Unwind_Context *context, void *seen) {
    if (++*(long *)seen > 100000) {
        puts("a walk without end");
        _Exit(1);
    }
    return _URC_NO_REASON;
}

static uint64_t nonsense(uint64_t *stack) {
    switch (next() % 10) {
    case 0: return 0;
    case 1: return ~next() | 0xffff000000000000;
    case 2: return next();
    case 3: return (uint64_t)(stack + next() % 400);
    case 4: return (uint64_t)stack - next() % 4000;
    case 5: return (uint64_t)&count + next() % 200;
    case 6: return (uint64_t)&qsort + next() % 500;
    case 7: return (uint64_t)forbidden + next() % 4096;
    case 8: return (uint64_t)heap + next() % 4096;
    default: return (uint64_t)&_Unwind_Backtrace + next() % 100;
    }
}

__attribute__((noinline, optimize("no-omit-frame-pointer"))) static void smash(int rounds) {
    uint64_t *stack = __builtin_frame_address(0);
    memcpy(kept, stack, sizeof kept);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < WORDS; i++)
            if (next() % 4 == 0) stack[i] = nonsense(stack);
        long seen = 0;
        _Unwind_Backtrace(count, &seen);
        walks++;
        frames += seen;
        memcpy(stack, kept, sizeof kept);
    }
}

__attribute__((noinline)) static void nest(int depth, int rounds) {
    volatile uint64_t area[24];
    area[depth] = depth;
    if (depth == 0) smash(rounds);
    else nest(depth - 1, rounds);
    area[depth] = area[depth] + 1;
}

static void handler(int signal) { nest(6, 3000); }

static void *thread(void *data) {
    nest(8, 3000);
    return 0;
}

int main(void) {
    forbidden = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    heap = malloc(8192);
    nest(10, 3000);
    pthread_t t;
    pthread_create(&t, 0, thread, 0);
    pthread_join(t, 0);
    stack_t other = {.ss_size = 1 << 16, .ss_sp = malloc(1 << 16)};
    sigaltstack(&other, 0);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    printf("%ld walks ended, after %s frames\n", walks, frames > walks ? "some" : "no");
    return 0;
}
