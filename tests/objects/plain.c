/* The simplest object that has everything: code, constants, data, zeroed data, a call out. */
extern void *memset(void *, int, unsigned long);

static const int primes[] = {2, 3, 5, 7, 11, 13};
static int calls = 100;
int plain_count = 1;
static char buffer[64];

int plain_prime(unsigned n)
{
    calls++;
    plain_count++;
    return n < sizeof primes / sizeof *primes ? primes[n] : -1;
}

int plain_calls(void)
{
    return calls;
}

int plain_fill(int value)
{
    int sum = 0;
    memset(buffer, value, sizeof buffer);
    for (unsigned i = 0; i < sizeof buffer; i++)
        sum += buffer[i];
    return sum;
}
