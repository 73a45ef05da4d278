/* Thread-local variables of every kind; how they are reached is up to the compiler's flags. */

static _Thread_local long start = 0x1122334455667788;
static _Thread_local long zero[9];
_Thread_local int shared_by_name = 40;
static _Thread_local struct {
    _Alignas(128) char bytes[200];
} wide = {{5}};

long access_start(void)
{
    return start;
}

void access_set_start(long value)
{
    start = value;
}

long access_zero_sum(void)
{
    long sum = 0;
    for (int i = 0; i < 9; i++)
        sum += zero[i]++;
    return sum;
}

int access_shared(int by)
{
    return shared_by_name += by;
}

unsigned long access_wide_address(void)
{
    return (unsigned long)wide.bytes;
}

int access_wide_first(void)
{
    return wide.bytes[0];
}
