// Throws and catches in C++, as work.rs does in Rust.
//
//   throw DEPTH GUARDS BATCH THREADS ─► time stamps of one throw

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#include <x86intrin.h>

static volatile long sink;

struct Guard {
    long value;
    ~Guard() { sink = value; }
};

using Frame = long (*)(int);
extern const Frame with_guard[], without[];

template <long N> [[gnu::noinline]] long guarded(int depth) {
    Guard guard{N};
    if (depth == 1) throw 1L;
    return with_guard[N + 1](depth - 1) + guard.value;
}

template <long N> [[gnu::noinline]] long plain(int depth) {
    if (depth == 1) throw 1L;
    return without[N + 1](depth - 1) + N + sink;
}

static long last(int) { abort(); }

#define TEN(name, t)                                                                               \
    name<t>, name<t + 1>, name<t + 2>, name<t + 3>, name<t + 4>, name<t + 5>, name<t + 6>,         \
        name<t + 7>, name<t + 8>, name<t + 9>
#define ALL(name)                                                                                  \
    TEN(name, 0), TEN(name, 10), TEN(name, 20), TEN(name, 30), TEN(name, 40), TEN(name, 50),       \
        TEN(name, 60), TEN(name, 70), TEN(name, 80), TEN(name, 90), last
const Frame with_guard[] = {ALL(guarded)};
const Frame without[] = {ALL(plain)};

static void once(int depth, bool guards) {
    try {
        sink = (guards ? with_guard : without)[0](depth);
    } catch (long) {
    }
}

static double median(int depth, bool guards, int batch) {
    std::vector<unsigned long long> times;
    for (int n = 0; n < 22; n++) {
        auto start = __rdtsc();
        for (int m = 0; m < batch; m++) once(depth, guards);
        times.push_back(__rdtsc() - start);
    }
    times.erase(times.begin());
    std::sort(times.begin(), times.end());
    return double(times[times.size() / 2]) / batch;
}

int main(int, char **words) {
    int depth = atoi(words[1]), batch = atoi(words[3]), threads = atoi(words[4]);
    bool guards = atoi(words[2]);
    std::vector<double> times(threads);
    std::vector<std::thread> all;
    std::atomic<int> ready{0};
    for (int n = 0; n < threads; n++)
        all.emplace_back([&, n] {
            for (ready++; ready < threads;) {
            }
            times[n] = median(depth, guards, batch);
        });
    double sum = 0;
    for (int n = 0; n < threads; n++) {
        all[n].join();
        sum += times[n];
    }
    printf("%.1f\n", sum / threads);
}
