/* C functions between C++ ones: cleanups, and none. */
#include <stdio.h>

static void say(const char **name) { printf("cleanup %s\n", *name); }

int through_c(int (*next)(int), int n) {
    const char *name __attribute__((cleanup(say))) = "outer";
    int sum = 0;
    for (int i = 0; i < n; i++) {
        const char *inner __attribute__((cleanup(say))) = "inner";
        sum += next(i);
    }
    return sum;
}

int plain_c(int (*next)(int), int n) { return next(n) + 1; }
