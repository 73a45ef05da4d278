/* zlib and lz4, as their authors published them, compress text that is made up here, in each of their
   ways, and decompress it again. An ordinary program: its words and LEVELS say how much, and what comes of
   it is printed, so that it can be compared with what it is on the host. Fails if a text changes on its
   way, or if time does not pass. */
#include <lz4.h>
#include <lz4hc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

static unsigned random_number(void)
{
    /* Marsaglia's xorshift32. */
    static unsigned state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

/* Words of a few syllables, numbers, and lines: as compressible as text is. */
static char *text(size_t size)
{
    static const char *const syllables[] = {"un", "spool", "thre", "ad", "lo", "cal", "wind", "er"};
    char *text = malloc(size + 64);
    if (!text)
        exit(3);
    for (size_t at = 0; at < size;) {
        for (unsigned more = 1 + random_number() % 3; more; more--)
            at += sprintf(text + at, "%s", syllables[random_number() % 8]);
        if (random_number() % 8 == 0)
            at += sprintf(text + at, " %.3f", random_number() % 100000 / 7.0);
        text[at++] = random_number() % 9 ? ' ' : '\n';
    }
    return text;
}

static void say(const char *how, int level, const char *packed, size_t got, size_t size)
{
    unsigned long sum = crc32(adler32(1, (const Bytef *)packed, got), (const Bytef *)packed, got);
    printf("%-7s %2d: %7zu of %zu bytes (%5.2f %%), %08lx\n", how, level, got, size,
           100.0 * got / size, sum);
}

static int zlib_way(const char *from, size_t size, int level, char *packed, size_t room, char *back)
{
    uLongf got = room, again = size;
    if (compress2((Bytef *)packed, &got, (const Bytef *)from, size, level) != Z_OK)
        return 0;
    say("zlib", level, packed, got, size);
    return uncompress((Bytef *)back, &again, (const Bytef *)packed, got) == Z_OK && again == size &&
           !memcmp(from, back, size);
}

static int lz4_way(const char *from, size_t size, int level, char *packed, size_t room, char *back)
{
    /* The fast way hashes words of the machine: what it makes depends on their size. */
    int fast = level < LZ4HC_CLEVEL_MIN;
    int got = fast ? LZ4_compress_fast(from, packed, size, room, level)
                   : LZ4_compress_HC(from, packed, size, room, level);
    if (!fast)
        say("lz4", level, packed, got, size);
    memset(back, 0, size);
    return LZ4_decompress_safe(packed, back, got, size) == (int)size && !memcmp(from, back, size);
}

int main(int count, char **words)
{
    struct timespec start, end;
    const char *levels = getenv("LEVELS");
    if (count != 2 || !levels || clock_gettime(CLOCK_MONOTONIC, &start)) {
        fprintf(stderr, "usage: LEVELS='1 9' %s BYTES\n", words[0]);
        return 2;
    }
    size_t size = strtoul(words[1], NULL, 10), room = 2 * size + 1000;
    char *from = text(size), *packed = malloc(room), *back = malloc(size), *next;
    printf("%s: zlib %s, lz4 %s\n", words[0], zlibVersion(), LZ4_versionString());
    for (long level; level = strtol(levels, &next, 10), next != levels; levels = next) {
        if (!packed || !back || !zlib_way(from, size, level, packed, room, back) ||
            !lz4_way(from, size, level, packed, room, back))
            return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double passed = difftime(end.tv_sec, start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9;
    return passed > 0 ? EXIT_SUCCESS : 4;
}
