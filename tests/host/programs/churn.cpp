// Libraries come and go, one in the other's place, while threads throw through them and through what
// stays.
#include <atomic>
#include <cstdio>
#include <dlfcn.h>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

static std::string folder;
static std::atomic<bool> done;
// Where the function of each library has been.
static std::set<void *> places[2];
static std::mutex mutex;

// Opens the libraries in turn, or one of them only.
static long rounds(int which, int step, int opens, int each) {
    long sum = 0;
    for (int i = 0; i < opens; i++, which ^= step) {
        const char *name = which ? "plugin_b.so" : "plugin_a.so";
        void *library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            std::printf("%s\n", dlerror());
            return -1;
        }
        auto run = (int (*)(int))dlsym(library, "run");
        {
            std::lock_guard<std::mutex> lock(mutex);
            places[which].insert((void *)run);
        }
        for (int n = 0; n < each; n++) {
            try {
                sum += run(n % 3);
            } catch (int thrown) {
                sum += 1000 * thrown;
            }
        }
        dlclose(library);
    }
    return sum;
}

// Throws all the time, through code that stays.
static long throws() {
    long wrong = 0;
    while (!done) {
        try {
            std::string text(20, 'x');
            throw 1;
        } catch (int n) {
            wrong += n != 1;
        }
    }
    return wrong;
}

int main(int, char **arguments) {
    folder = arguments[0];
    folder.resize(folder.rfind('/') + 1);
    std::vector<long> sums(6);
    std::vector<std::thread> workers, openers;
    for (int t = 0; t < 2; t++) workers.emplace_back([&, t] { sums[t] = throws(); });
    for (int t = 0; t < 4; t++) {
        openers.emplace_back([&, t] { sums[2 + t] = rounds(t % 2, t / 2, 400, 9); });
    }
    for (auto &opener : openers) opener.join();
    done = true;
    for (auto &worker : workers) worker.join();
    // When threads load them, each may have had its own places: now they come in turn.
    sums.push_back(rounds(0, 1, 8, 9));
    for (long sum : sums) std::printf("%ld\n", sum);
    bool shared = false;
    for (void *place : places[0]) shared |= places[1].count(place) != 0;
    std::puts(shared ? "one has been in the other's place" : "each had its own places");
}
