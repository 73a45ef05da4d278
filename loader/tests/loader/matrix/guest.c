/* A guest in C or C++. ALIGN is a power of two. Functions return 0, or the number of the check that
   failed. */
typedef unsigned long word;

#ifdef __cplusplus
template <class T> T twice(T x) { return 2 * x; }
inline word inline_variable = 40;
inline __thread word inline_tls = 4;
struct Base { virtual word of(word x) { return x; } };
struct Derived : Base { word of(word x) override { return twice(x) + 1; } };
static Derived derived;
static Base *const base = &derived;
extern "C" {
#endif

/* Others': the hub's, and nobody's. */
extern __thread word shared;
extern word counter;
word hub(word x);
extern int absent(void) __attribute__((weak));
extern char absent_data __attribute__((weak));

/* An address, of which the compiler knows nothing. */
static word at(const volatile void *place) {
    word address = (word)place;
    __asm__("" : "+r"(address));
    return address;
}

__asm__(".section .text.none, \"ax\", @progbits\n"
        ".section .data.none, \"aw\", @progbits\n"
        ".section .bss.none, \"aw\", @nobits\n"
        ".section .tdata.none, \"awT\", @progbits\n"
        ".globl none_there\n none_there:\n .text\n");

static word square(word x) { return x * x; }
static word (*const functions[])(word) = {square, hub};
static word (*volatile changing)(word) = square;
static const char *const names[] = {"x", "yy", "zzz"};
static word big[9000];
static volatile word few[3] = {1, 2, 3};
static volatile char aligned_data[ALIGN] __attribute__((aligned(ALIGN))) = {1};
static volatile char aligned_bss[ALIGN] __attribute__((aligned(ALIGN)));
static const volatile char aligned_rodata[ALIGN] __attribute__((aligned(ALIGN))) = {2};
char none[0];
word offered = 77;

__attribute__((noinline)) word pick(word x) {
    switch (x) {
    case 0: return 9; case 1: return hub(x); case 2: return offered; case 3: return few[2];
    case 4: return names[2][2]; case 5: return 2; case 6: return functions[0](x); default: return 0;
    }
}

word check(void) {
    static const word picked[] = {9, 4, 77, 3, 'z', 2, 36, 0};
    for (word i = 0; i < 8; i++)
        if (pick(i) != picked[i]) return 1 + i;
    if (functions[1](7) != 22 || changing(5) != 25) return 11;
    changing = hub;
    if (changing(5) != 16) return 12;
    for (word i = 0; i < 9000; i += 100) big[i + 7] = i;
    if (big[8907] != 8900 || big[8908] != 0) return 13;
    if (at(aligned_data) % ALIGN || aligned_data[0] != 1 || aligned_data[ALIGN / 2] != (ALIGN < 2)) return 14;
    if (at(aligned_bss) % ALIGN || aligned_bss[ALIGN - 1]) return 15;
    if (at(aligned_rodata) % ALIGN || aligned_rodata[0] != 2) return 16;
    if (at((void *)absent) || at(&absent_data) || !at(none)) return 17;
    offered++;
    if (pick(2) != 78) return 18;
#ifdef __cplusplus
    inline_variable++;
    if (inline_variable < 41 || base->of(4) != 9) return 19;
#endif
    counter++;
    return 0;
}

static __thread word own = 3;
__thread word offered_tls[3];
/* In the medium model, gcc does not know where to put what has no size. */
#if defined(__code_model_medium__)
#define none_tls offered_tls
#else
static __thread volatile char none_tls[0];
#endif
static __thread volatile char aligned_tls[ALIGN] __attribute__((aligned(ALIGN)));
static __thread volatile char aligned_tdata[ALIGN] __attribute__((aligned(ALIGN))) = {5};

word check_tls(void) {
    if (own != 3) return 1;
    own += pick(0);
    if (own != 12) return 2;
    if (at(aligned_tls) % ALIGN || aligned_tls[ALIGN - 1]) return 3;
    if (at(aligned_tdata) % ALIGN || aligned_tdata[0] != 5) return 4;
    offered_tls[pick(5)] += own;
    if (offered_tls[0] || offered_tls[2] != 12) return 5;
    if (!at(none_tls) || at(&own) == at(offered_tls)) return 6;
#ifdef __cplusplus
    if (++inline_tls < 5) return 7;
#endif
    shared++;
    return 0;
}

word *where_shared(void) { return &shared; }

#ifdef __cplusplus
}
#endif
