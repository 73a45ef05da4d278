/* glibc's backtrace(), which finds the unwinder by dlopen; also in a handler and a thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *base;

__attribute__((noinline)) void show(const char *what) {
    void *frames[64];
    int count = backtrace(frames, 64);
    printf("%s: %d frames\n", what, count);
    for (int i = 0; i < count; i++) {
        Dl_info info;
        int known = dladdr(frames[i], &info);
        const char *file = known && info.dli_fname ? strrchr(info.dli_fname, '/') : 0;
        printf("  %s+%#lx\n", file ? file + 1 : "?",
               known ? (unsigned long)((char *)frames[i] - (char *)info.dli_fbase) : 0ul);
    }
}

__attribute__((noinline)) void nest(int n) {
    if (n == 0) show("nested");
    else nest(n - 1);
    __asm__ volatile("");
}

void handler(int signal) { show("handler"); }

int order(const void *a, const void *b) {
    static int once;
    if (!once++) show("qsort");
    return *(const int *)a - *(const int *)b;
}

void *thread(void *data) {
    nest(3);
    return 0;
}

int main(void) {
    nest(5);
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, order);
    pthread_t t;
    pthread_create(&t, 0, thread, 0);
    pthread_join(t, 0);
    return 0;
}
