/* A thread-local block that no surplus has room for: 8 MiB. */
static _Thread_local char large[8 << 20];

char *large_tls_entry(void)
{
    return large;
}
