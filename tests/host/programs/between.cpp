// Libraries that come and go in the midst of what is registered: code made at run time below them, and
// something above them. With SIZE, one of the libraries.
#ifdef SIZE
#include <cstdio>

struct Says {
    int number;
    ~Says() { std::printf("~%d\n", number); }
};

extern "C" void run(void (*thunk)(void (*)()), void (*body)()) {
    Says says{SIZE};
    volatile char area[SIZE];
    area[0] = SIZE;
    thunk(body);
    area[1] = area[0];
}
#else
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <sys/mman.h>

extern "C" void __register_frame(void *);
extern "C" void __deregister_frame(void *);

using Run = void (*)(void (*)(void (*)()), void (*)());

static void throws() { throw 1; }

// sub $8,%rsp; call *%rdi; add $8,%rsp; ret
static const uint8_t CODE[] = {0x48, 0x83, 0xec, 8, 0xff, 0xd7, 0x48, 0x83, 0xc4, 8, 0xc3};
static const uint64_t HALF = 512 << 20;

static uint8_t *put_function(uint8_t *at, const uint8_t *begin, uint64_t start, uint64_t size) {
    uint32_t head[] = {28, uint32_t(at + 4 - begin)};
    // After the prologue, the CFA is 16 bytes up.
    const uint8_t program[] = {0, 0x44, 0x0e, 16, 0, 0, 0, 0};
    std::memcpy(at, head, 8);
    std::memcpy(at + 8, &start, 8);
    std::memcpy(at + 16, &size, 8);
    std::memcpy(at + 24, program, 8);
    return at + 32;
}

int main(int, char **arguments) {
    std::string folder = arguments[0];
    folder.resize(folder.rfind('/') + 1);
    void (*thunk)(void (*)()) = nullptr;
    static uint8_t frames[128] = {20, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0,
                                  1, 0x78, 16, 1, 0, 0x0c, 7, 8, 0x90, 1, 0, 0};
    for (int i = 0; i < 8; i++) {
        auto name = folder + (i % 2 ? "between_b.so" : "between_a.so");
        void *library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
        auto run = (Run)dlsym(library, "run");
        if (!thunk) {
            auto hint = (void *)(((uint64_t)run - HALF) & ~4095);
            void *page = mmap(hint, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            std::memcpy(page, CODE, sizeof CODE);
            thunk = (void (*)(void (*)()))page;
            auto end = put_function(frames + 24, frames, (uint64_t)page, sizeof CODE);
            put_function(end, frames, (uint64_t)page + 2 * HALF, 1);
            __register_frame(frames);
        }
        for (int n = 0; n < 2; n++) {
            try {
                run(thunk, throws);
            } catch (int number) {
                std::printf("caught %d\n", number);
            }
        }
        dlclose(library);
    }
    __deregister_frame(frames);
}
#endif
