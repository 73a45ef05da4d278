/* Raises what says that it is a C++ exception, where there is no C++ runtime. */
#include <stdint.h>

struct exception {
    uint64_t class;
    void *cleanup;
    uint64_t private[4];
} __attribute__((aligned(16)));

extern int _Unwind_RaiseException(struct exception *);

static struct exception exception;

/* The class, as a big-endian number: GNU's C++, and nobody's language. */
int test_main(void)
{
    exception.class = 0x474e5543432b2b00;
    return _Unwind_RaiseException(&exception);
}

int of_nobody(void)
{
    exception.class = 0x4e4f424f44590000;
    return _Unwind_RaiseException(&exception);
}
