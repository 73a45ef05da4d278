/*
 * What the program that loads a module offers to it, for modules in C (C99) and C++.
 *
 * The program is `unspool-load` (this header stands with it, because its functions do): try a module
 * with
 *
 *     cc -c -fexceptions -Iexamples/load/include module.c
 *     cargo xtask load module.o
 *
 * which calls its `int test_main(void)`, or its `int main(int, char **)`. A system of your own offers
 * its modules what it likes; if it offers these, take this file with you.
 *
 * Besides, there are memcpy, memmove, memset, memcmp, memchr, strlen, strcmp, strncmp, strchr, strrchr
 * and bcmp; malloc, calloc, realloc, aligned_alloc and free; abort; printf, sprintf and snprintf (no
 * floating point), puts, putchar, fputs, fputc, fwrite, stdout and stderr. Their declarations are those
 * of <string.h>, <stdlib.h> and <stdio.h>.
 *
 * Compile with -fexceptions: unspool_panic and unspool_run_tasks may leave your functions by
 * unwinding, which takes unwind tables (x86-64 has them by default) and, for __attribute__((cleanup)),
 * landing pads.
 */
#ifndef UNSPOOL_H
#define UNSPOOL_H

#include <stddef.h>

#if defined(__cplusplus)
#define UNSPOOL_NORETURN [[noreturn]]
extern "C" {
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define UNSPOOL_NORETURN _Noreturn
#else
#define UNSPOOL_NORETURN __attribute__((__noreturn__))
#endif

/*
 * Writes `length` bytes to standard output, as they are. What several tasks write in one call each is
 * not mixed, up to 4096 bytes. Never fails.
 */
void unspool_print(const char *text, size_t length);

/*
 * Runs fn(0), fn(1), ... fn(n - 1), each on a task of its own, all at the same time: they take turns
 * on all CPUs and may wait for each other. Returns when all have ended, with the sum of what they
 * returned, modulo 2^32. Returns 0 if n is not positive. A task has a stack of 128 KiB.
 *
 * If one of them panics (or faults), the others go on; when all have ended, the first panic (by the
 * number of the task) continues in the caller. If there is no memory for all of the tasks, those that
 * could be made run to their ends, and then this function panics.
 */
int unspool_run_tasks(int n, int (*fn)(int));

/*
 * Panics with this message, as Rust's panic!: it is printed to standard error with a trace, and the
 * task is unwound, up to whoever catches it: catch_unwind, the end of the task. Does not return.
 */
UNSPOOL_NORETURN void unspool_panic(const char *message);

/*
 * Asks the calling task to die, as pthread_cancel(pthread_self()): it is unwound at its next
 * unspool_yield, with all destructors and cleanups, if every frame lets it through; else at the first
 * one after that. C++ frames that catch everything, `catch (...)`, do not, nor does what is noexcept:
 * nobody knows whether the former would throw it again. unspool_run_tasks then panics in its caller.
 */
void unspool_cancel(void);

/*
 * Lets other tasks run. The calling task dies here if it was asked to.
 */
void unspool_yield(void);

#if defined(__cplusplus)
}
#endif

#endif
