/* Stacks to walk: of many functions, or of one that calls itself.
 *
 *   distinct(walk, depth) ─► f0 ─► f1 ─► … ─► bottom ─► walk->act
 *   recursive(walk, depth) ─► f ─► f ─► … ─► bottom ─► walk->act
 *
 * The functions differ in how many callee-saved registers they save: from one to five.
 */

struct walk {
    void (*act)(void *);
    void *argument;
    volatile long value;
    /* Of the lowest frame, if the chain has frame pointers. */
    void *frame;
};

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)

typedef long frame(struct walk *, long depth);

static frame *const chain[];

static __attribute__((noinline)) long bottom(struct walk *walk) {
    walk->frame = __builtin_frame_address(0);
    walk->act(walk->argument);
    return walk->value;
}

/* Values that are needed after the call are in callee-saved registers meanwhile. */
#define BODY(n, call)                                                                              \
    long a = walk->value, b = 0, c = 0, d = 0, e = 0;                                              \
    if (n % 5 > 0) b = walk->value;                                                                \
    if (n % 5 > 1) c = walk->value;                                                                \
    if (n % 5 > 2) d = walk->value;                                                                \
    if (n % 5 > 3) e = walk->value;                                                                \
    long result = depth ? call : bottom(walk);                                                     \
    return result + a * 2 + b * 3 + c * 5 + d * 7 + e * 11 + n;

#define FRAME(n)                                                                                   \
    static __attribute__((noinline, noclone)) long f##n(struct walk *walk, long depth) {           \
        BODY(1##n - 1000, chain[1##n - 999](walk, depth - 1))                                      \
    }

#define TEN(n)                                                                                     \
    FRAME(n##0) FRAME(n##1) FRAME(n##2) FRAME(n##3) FRAME(n##4)                                    \
    FRAME(n##5) FRAME(n##6) FRAME(n##7) FRAME(n##8) FRAME(n##9)
#define ALL(m)                                                                                     \
    m(00) m(01) m(02) m(03) m(04) m(05) m(06) m(07) m(08) m(09) m(10) m(11) m(12) m(13) m(14)      \
    m(15) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27)

ALL(TEN)

#define NAMES(n) f##n##0, f##n##1, f##n##2, f##n##3, f##n##4, f##n##5, f##n##6, f##n##7, f##n##8, f##n##9,
static frame *const chain[] = {ALL(NAMES)};

static __attribute__((noinline, noclone)) long recursion(struct walk *walk, long depth) {
    BODY(3, recursion(walk, depth - 1))
}

long JOIN(distinct, CHAIN)(struct walk *walk, long depth) {
    return chain[0](walk, depth) + 1;
}

long JOIN(recursive, CHAIN)(struct walk *walk, long depth) {
    return recursion(walk, depth) + 1;
}

/* The sum of the return addresses of so many frames, by their frame pointers. */
unsigned long JOIN(walk, CHAIN)(void *frame, unsigned long count) {
    unsigned long sum = 0;
    void **at = frame;
    for (; count; count--) {
        sum += (unsigned long)at[1];
        at = at[0];
    }
    return sum;
}
