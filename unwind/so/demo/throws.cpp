// Throws through sixteen frames, four of them with something to destroy; says who unwound, and how
// long it took.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <stdexcept>

static volatile int destroyed;

struct Counts {
    ~Counts() { destroyed = destroyed + 1; }
};

__attribute__((noinline)) static int nest(int n) {
    if (n == 0) throw std::runtime_error("from the bottom");
    if (n % 4 == 0) {
        Counts counts;
        return nest(n - 1) + 1;
    }
    return nest(n - 1) + 1;
}

static void throws() {
    try {
        nest(16);
    } catch (const std::runtime_error &) {
    }
}

static double microseconds() {
    const int count = 2000;
    auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < count; i++) throws();
    std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    return time.count() / count;
}

int main() {
    try {
        nest(16);
    } catch (const std::runtime_error &e) {
        std::printf("caught \"%s\", destroyed %d\n", e.what(), destroyed);
    }
    Dl_info info;
    dladdr(dlsym(RTLD_DEFAULT, "_Unwind_RaiseException"), &info);
    std::printf("unwinder: %s\n", info.dli_fname);
    double best = microseconds();
    for (int i = 0; i < 20; i++) best = std::min(best, microseconds());
    std::printf("microseconds: %.2f\n", best);
}
