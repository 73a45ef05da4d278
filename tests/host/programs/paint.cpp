// How much stack a throw uses, below the frame that throws (bytes), and how often it allocates: in
// the main thread and in another one, from the first throw on; then through a frame whose CFA is an
// expression of as many values as unwinders hold.
#include <cstddef>
#include <cstdio>
#include <thread>

static const size_t PAINTED = 16384;
static unsigned char *top, *thrower_ends;
static int allocations;

extern "C" void *__libc_malloc(size_t size);
extern "C" void *malloc(size_t size) {
    allocations++;
    return __libc_malloc(size);
}

__attribute__((noinline)) static void paint() {
    volatile unsigned char area[PAINTED];
    for (auto &byte : area) byte = 0xa5;
    top = (unsigned char *)area + PAINTED;
}

static size_t used() {
    volatile unsigned char *p = top - PAINTED / 2;
    while (*p == 0xa5) p++;
    return thrower_ends - p;
}

struct Quiet {
    ~Quiet() { asm volatile(""); }
};

// A realigned frame with a stack that grows: its CFA is an expression.
__attribute__((noinline)) static void thrower(int n) {
    alignas(64) volatile char line[64];
    volatile char some[n];
    Quiet quiet;
    line[n] = some[0] = n;
    thrower_ends = (unsigned char *)some;
    if (n) throw n;
}

extern "C" __attribute__((used)) void throw_from_deep(int n) { thrower(n); }

// DW_CFA_def_cfa_expression: 63 times DW_OP_lit0, DW_OP_breg7 (rsp) 16.
extern "C" void deep(int n);
asm(R"(
    .globl deep
    .type deep, @function
deep:
    .cfi_startproc
    sub $8, %rsp
    .cfi_escape 0x0f, 65
    .rept 63
    .cfi_escape 0x30
    .endr
    .cfi_escape 0x77, 16
    call throw_from_deep
    add $8, %rsp
    .cfi_def_cfa rsp, 8
    ret
    .cfi_endproc
    .size deep, . - deep
)");

static size_t most;

static void throws(void (*through)(int)) {
    most = 0;
    for (int i = 0; i < 4; i++) {
        paint();
        int before = allocations;
        try {
            through(i + 1);
        } catch (int) {
        }
        most = used() > most ? used() : most;
        std::printf("%d ", allocations - before);
    }
}

int main() {
    // So that it allocates its buffer now.
    std::puts("allocations a throw, with the exception's own:");
    throws(thrower);
    size_t usual = most;
    std::thread(throws, thrower).join();
    usual = most > usual ? most : usual;
    throws(deep);
    std::printf("\nbytes: %zu\nthrough a deep expression: %zu\n", usual, most);
}
