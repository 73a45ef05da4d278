// Tables of two functions that are registered together, with a program and its libraries between them.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

extern "C" void __register_frame(void *);
extern "C" void __deregister_frame(void *);

static std::vector<uint8_t> bytes;

template <typename Number> static void put(Number number) {
    auto place = bytes.size();
    bytes.resize(place + sizeof number);
    std::memcpy(bytes.data() + place, &number, sizeof number);
}

// Of one byte.
static void function(uint64_t start) {
    put<uint32_t>(28);
    put<uint32_t>(bytes.size());
    put(start);
    put<uint64_t>(1);
    put<uint64_t>(0);
}

[[gnu::noinline]] static void throws() { throw 1; }

static void tries(const char *when) {
    try {
        throws();
    } catch (int number) {
        std::printf("caught %d %s\n", number, when);
    }
}

int main() {
    const uint8_t common[] = {20, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0,
                              0x0c, 7, 8, 0x90, 1, 0, 0};
    bytes.assign(common, common + sizeof common);
    function(0x10000);
    function(0x7fffffffe000);
    put<uint32_t>(0);
    tries("before");
    __register_frame(bytes.data());
    tries("between");
    __deregister_frame(bytes.data());
    tries("after");
}
