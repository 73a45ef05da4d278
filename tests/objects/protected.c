/* A function with a canary, as -fstack-protector-all gives every function one. */

__attribute__((stack_protect, noinline))
int protected_sum(const char *text, int length)
{
    volatile char copy[32];
    int sum = 0;
    for (int i = 0; i < length; i++)
        copy[i] = text[i];
    for (int i = 0; i < 32 && i < length; i++)
        sum += copy[i];
    return sum;
}
