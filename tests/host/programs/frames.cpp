// Frames of every shape, and deep stacks.
#include <alloca.h>
#include <cstdint>
#include <cstdio>
#include <cstring>

struct Count {
    static int live;
    Count() { live++; }
    Count(const Count &) { live++; }
    ~Count() { live--; }
};
int Count::live = 0;

static volatile unsigned sink;

__attribute__((noinline)) static void deep(int n) {
    Count count;
    if (n == 0) throw n;
    deep(n - 1);
    sink = sink + n;
}

__attribute__((noinline)) static void with_alloca(int n) {
    Count count;
    char *p = (char *)alloca(n * 100 + 1);
    std::memset(p, n, n * 100 + 1);
    if (n == 0) throw 1;
    with_alloca(n - 1);
    sink = sink + p[n];
}

__attribute__((noinline)) static void with_vla(int n) {
    Count count;
    volatile int v[n + 1];
    v[n] = n;
    if (n == 0) throw 2;
    with_vla(n - 1);
    sink = sink + v[n];
}

struct alignas(256) Aligned {
    char bytes[256];
    Count count;
};

__attribute__((noinline)) static void aligned(int n) {
    Aligned a;
    a.bytes[n] = n;
    if ((uintptr_t)&a % 256 != 0) std::puts("misaligned");
    if (n == 0) throw 3;
    aligned(n - 1);
    sink = sink + a.bytes[n];
}

__attribute__((noinline)) static void aligned_vla(int n) {
    Aligned a;
    volatile char v[n * 33 + 1];
    v[n] = n;
    a.bytes[n] = n;
    if (n == 0) throw 4;
    aligned_vla(n - 1);
    sink = sink + a.bytes[n] + v[n];
}

__attribute__((noinline)) static void large(int n) {
    volatile char area[200000];
    Count count;
    area[n] = n;
    if (n == 0) throw 5;
    large(n - 1);
    sink = sink + area[n];
}

__attribute__((noinline)) static double many(double a, double b, double c, double d, long e, long f,
                                             long g, long h, long i, long j, long k, int n) {
    Count count;
    if (n == 0) throw 6;
    return many(b, c, d, a, f, g, h, i, j, k, e, n - 1) + a * (double)k;
}

template <class F> static void run(const char *name, F f) {
    // What callers keep in registers must be there afterwards.
    unsigned long a = sink + 1, b = a * 3, c = b * 5, d = c * 7, e = d * 11;
    for (int i = 0; i < 3; i++) {
        a += i; b ^= a; c += b; d ^= c; e += d;
        try {
            f();
        } catch (int n) {
            std::printf("%s: %d, %d live\n", name, n, Count::live);
        }
    }
    std::printf("%lu\n", a + b + c + d + e);
}

int main() {
    sink = 0;
    run("deep", [] { deep(10000); });
    run("alloca", [] { with_alloca(50); });
    run("vla", [] { with_vla(50); });
    run("aligned", [] { aligned(50); });
    run("aligned vla", [] { aligned_vla(50); });
    run("large", [] { large(20); });
    run("many", [] { many(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 100); });
}
