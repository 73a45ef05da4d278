// What encodings of registered tables are relative to: what was said when they were registered.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <sys/mman.h>
#include <unwind.h>

struct dwarf_eh_bases {
    void *tbase, *dbase, *func;
};
extern "C" const void *_Unwind_Find_FDE(void *, dwarf_eh_bases *);
extern "C" void __register_frame_info_bases(const void *, void *, void *, void *);
extern "C" void __register_frame_info_table_bases(void *, void *, void *, void *);
extern "C" void *__deregister_frame_info_bases(const void *);

static char *memory, text_base[4], data_base[4];

static const char *name(void *base) {
    return !base ? "null" : base == text_base ? "text" : base == data_base ? "data" : "another";
}

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
    // Code `address` bytes behind what the encoding is relative to.
    Tables(unsigned char encoding, uint64_t address) {
        put<uint32_t>(0);
        put<uint32_t>(0);
        for (unsigned char byte : {1, +'z', +'R', 0, 1, 0x78, 16, 1, +encoding}) put(byte);
        for (unsigned char byte : {0x0c, 7, 8, 0x90, 1}) put(byte);
        entry(0);
        size_t fde = length;
        put<uint32_t>(0);
        put<uint32_t>(length);
        put(address);
        put<uint64_t>(sizeof code);
        put<uint8_t>(0);
        for (unsigned char byte : {0x41, 0x0e, 16, 0x83, 2}) put(byte);
        entry(fde);
        put<uint32_t>(0);
    }
};

static _Unwind_Reason_Code show(_Unwind_Context *context, void *) {
    std::printf(" %s+%s", name((void *)_Unwind_GetTextRelBase(context)),
                name((void *)_Unwind_GetDataRelBase(context)));
    return _URC_NO_REASON;
}

static void walk() {
    std::printf("walk:");
    _Unwind_Backtrace(show, nullptr);
    std::puts("");
}

static void throws() { throw 5; }

static void attempt(const char *what) {
    std::puts(what);
    dwarf_eh_bases bases = {};
    const void *fde = _Unwind_Find_FDE(memory + 3, &bases);
    std::printf("found: %d, %s+%s, %d\n", fde != nullptr, name(bases.tbase), name(bases.dbase),
                bases.func == memory);
    auto function = (void (*)(void (*)()))memory;
    function(walk);
    try {
        function(throws);
    } catch (int n) {
        std::printf("caught %d\n", n);
    }
}

int main() {
    memory = (char *)mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memcpy(memory, code, sizeof code);
    static long object[8];
    const unsigned char absolute = 0x00, textrel = 0x20, datarel = 0x30;
    static Tables plain(absolute, (uint64_t)memory), from_text(textrel, memory - text_base),
        from_data(datarel, memory - data_base);
    struct {
        const char *what;
        Tables &tables;
    } cases[] = {{"absolute", plain}, {"relative to text", from_text}, {"relative to data", from_data}};
    for (auto &each : cases) {
        __register_frame_info_bases(each.tables.bytes, object, text_base, data_base);
        attempt(each.what);
        std::printf("%d\n", __deregister_frame_info_bases(each.tables.bytes) == object);
        static void *list[2];
        list[0] = each.tables.bytes;
        __register_frame_info_table_bases(list, object, text_base, data_base);
        attempt("in a list");
        std::printf("%d\n", __deregister_frame_info_bases(list) == object);
    }
    dwarf_eh_bases bases = {};
    std::printf("main: %d,", _Unwind_Find_FDE((char *)&main + 1, &bases) != nullptr);
    std::printf(" %s+%s, %d\n", name(bases.tbase), name(bases.dbase), bases.func == (void *)&main);
    std::printf("libc: %d,", _Unwind_Find_FDE((char *)std::qsort + 1, &bases) != nullptr);
    std::printf(" %s+%s\n", name(bases.tbase), name(bases.dbase));
}
