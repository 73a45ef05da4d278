// Throws while another thread holds the dynamic linker's lock: it is in a callback of dl_iterate_phdr,
// and waits there for as many seconds as the argument says, at most.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <link.h>
#include <string>
#include <thread>
#include <unwind.h>

static std::atomic<bool> held, thrown;
static int seconds = 60;

static int hold(dl_phdr_info *, size_t, void *) {
    held = true;
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    while (!thrown && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    std::puts(thrown ? "the lock was not needed" : "somebody waits for the lock");
    return 1;
}

struct Counts {
    int &count;
    ~Counts() { count++; }
};

static int nest(int n, int &count) {
    if (n == 0) throw std::string("deep");
    Counts counts{count};
    return nest(n - 1, count) + 1;
}

static _Unwind_Reason_Code frame(_Unwind_Context *, void *) { return _URC_NO_REASON; }

int main(int count, char **arguments) {
    if (count > 1) seconds = std::atoi(arguments[1]);
    std::string folder = arguments[0];
    folder.resize(folder.rfind('/') + 1);
    void *library = dlopen((folder + "plugin_a.so").c_str(), RTLD_NOW);
    if (!library) return std::puts(dlerror());
    auto run = (int (*)(int))dlsym(library, "run");

    std::thread holder([] { dl_iterate_phdr(hold, nullptr); });
    while (!held) std::this_thread::yield();
    int caught = 0, destroyed = 0;
    // The first time nothing is remembered.
    for (int i = 0; i < 2; i++) {
        try {
            nest(10, destroyed);
        } catch (std::string &) {
            caught++;
        }
        for (int n = 0; n < 3; n++) {
            try {
                run(n);
            } catch (int) {
                caught++;
            }
        }
        try {
            try {
                run(1);
            } catch (...) {
                throw;
            }
        } catch (int) {
            caught++;
        }
        _Unwind_Backtrace(frame, nullptr);
    }
    thrown = true;
    holder.join();
    std::printf("caught %d, destroyed %d\n", caught, destroyed);
}
