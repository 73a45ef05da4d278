/* What C code takes for granted: its heap, its strings, its printf. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int heap(void)
{
    char *pieces[64];
    for (int i = 0; i < 64; i++) {
        pieces[i] = i % 2 ? malloc(i) : calloc(i, 3);
        if (!pieces[i] || (uintptr_t)pieces[i] % 16)
            return 1;
        memset(pieces[i], i, i);
    }
    for (int i = 0; i < 64; i++) {
        pieces[i] = realloc(pieces[i], 200 + i);
        for (int j = 0; j < i; j++)
            if (pieces[i][j] != i)
                return 2;
        free(pieces[i]);
    }
    volatile size_t huge = SIZE_MAX / 2;
    void *page = aligned_alloc(4096, 100);
    if (!page || (uintptr_t)page % 4096 || malloc(huge) || calloc(huge, 3))
        return 3;
    free(page);
    free(NULL);
    return 0;
}

static int strings(void)
{
    const char *volatile text = "one two";
    return strcmp(text, "one") <= 0 || strncmp(text, "one", 3) || strchr(text, 'w') != text + 5
        || strrchr(text, 'o') != text + 6 || strchr(text, 'x') || memchr(text, 't', 7) != text + 4
        || strlen(text) != 7;
}

int test_main(void)
{
    char small[6];
    int length = snprintf(small, sizeof small, "%s", "truncated");
    printf("%d %s|%5d|%-5d|%05d|%.3d|%u\n", length, small, -42, 42, -42, 7, -1);
    printf("%x %X %o %#lx %zu %lld %c %% %.3s|%6s|\n", 255, 255, 8, 1UL << 40, sizeof small,
           -1LL << 40, 'c', "abcdef", "ab");
    fputs("to stderr\n", stderr);
    return heap() + 10 * strings();
}

int aborts(void) { abort(); }
