// Libraries come and go, one in the other's place, while other threads throw through theirs.
#include <atomic>
#include <cstdio>
#include <dlfcn.h>
#include <string>
#include <thread>
#include <vector>

static std::string folder;
static std::atomic<bool> done;

static long rounds(const char *name, int opens, int each) {
    long sum = 0;
    for (int i = 0; i < opens; i++) {
        void *library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            std::printf("%s\n", dlerror());
            return -1;
        }
        auto run = (int (*)(int))dlsym(library, "run");
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
    std::vector<long> sums(4);
    std::vector<std::thread> workers;
    for (int t = 0; t < 2; t++) workers.emplace_back([&, t] { sums[t] = throws(); });
    std::thread a([&] { sums[2] = rounds("plugin_a.so", 400, 9); });
    std::thread b([&] { sums[3] = rounds("plugin_b.so", 400, 9); });
    a.join();
    b.join();
    done = true;
    for (auto &worker : workers) worker.join();
    for (long sum : sums) std::printf("%ld\n", sum);
}
