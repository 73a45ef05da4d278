// Code made at run time, with unwind tables made at run time.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <sys/mman.h>
#include <vector>

extern "C" void __register_frame(void *);
extern "C" void __deregister_frame(void *);
extern "C" void __register_frame_info(const void *, void *);
extern "C" void *__deregister_frame_info(const void *);

// push %rbx; call *%rdi; pop %rbx; ret
static const unsigned char code[] = {0x53, 0xff, 0xd7, 0x5b, 0xc3};

struct Tables {
    unsigned char bytes[256];
    size_t length = 0;
    template <class T> void put(T value) {
        std::memcpy(bytes + length, &value, sizeof value);
        length += sizeof value;
    }
    void entry(size_t start) {
        while ((length - start) % 8) put<uint8_t>(0);
        uint32_t size = length - start - 4;
        std::memcpy(bytes + start, &size, 4);
    }
    explicit Tables(const void *function) {
        put<uint32_t>(0);
        put<uint32_t>(0);
        for (unsigned char byte : {1, +'z', +'R', 0, 1, 0x78, 16, 1, 0}) put(byte);
        for (unsigned char byte : {0x0c, 7, 8, 0x90, 1}) put(byte);
        entry(0);
        size_t fde = length;
        put<uint32_t>(0);
        put<uint32_t>(length);
        put((uint64_t)function);
        put<uint64_t>(sizeof code);
        put<uint8_t>(0);
        // After the push: the CFA is 16 above, rbx at CFA − 16.
        for (unsigned char byte : {0x41, 0x0e, 16, 0x83, 2}) put(byte);
        entry(fde);
        put<uint32_t>(0);
    }
};

static void thrower() { throw 5; }

static void attempt(void (*function)(void (*)())) {
    try {
        function(thrower);
    } catch (int n) {
        std::printf("caught %d\n", n);
    }
}

int main() {
    auto *memory = (unsigned char *)mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memcpy(memory, code, sizeof code);
    auto function = (void (*)(void (*)()))memory;
    static Tables tables(memory);
    static long object[8];
    for (int i = 0; i < 3; i++) {
        __register_frame(tables.bytes);
        attempt(function);
        __deregister_frame(tables.bytes);
    }
    __register_frame_info(tables.bytes, object);
    attempt(function);
    std::printf("%d\n", __deregister_frame_info(tables.bytes) == object);
    // More than a few functions at the same time.
    std::vector<Tables> many;
    many.reserve(600);
    for (int i = 1; i <= 600; i++) {
        unsigned char *place = memory + i * sizeof code;
        std::memcpy(place, code, sizeof code);
        many.emplace_back(place);
        __register_frame(many.back().bytes);
    }
    attempt((void (*)(void (*)()))(memory + 600 * sizeof code));
    for (Tables &each : many) __deregister_frame(each.bytes);
    // Without tables nobody can get through.
    std::set_terminate([] {
        std::puts("terminate");
        std::fflush(stdout);
        std::_Exit(3);
    });
    attempt(function);
}
