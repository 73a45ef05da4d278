/* zlib and lz4 compress a real file, on as many tasks as there are ways to; what comes of it is printed
   and decompressed again. The same source is an ordinary program on the host, with `on_host.c`. */
#include "unspool.h"
#include <lz4.h>
#include <lz4hc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

__asm__(".section .rodata\n"
        ".globl file, file_end\n"
        "file: .incbin \"compressed_file\"\n"
        "file_end: .text\n");
extern const unsigned char file[], file_end[];

enum { ZLIB_FAST, ZLIB_BEST, ZLIB_HUFFMAN, GZIP, LZ4, LZ4_HC, WAYS };

struct result {
    unsigned char *bytes;
    size_t size;
};
static struct result results[WAYS];
static _Thread_local unsigned long seen;

/* In pieces of 10,000 bytes in and 999 out, so that the stream is stopped and goes on. */
static size_t stream(unsigned char *to, size_t room, int level, int window, int strategy)
{
    z_stream z = {0};
    if (deflateInit2(&z, level, Z_DEFLATED, window, 9, strategy) != Z_OK)
        return 0;
    z.next_in = (unsigned char *)file;
    z.next_out = to;
    for (int state = Z_OK; state != Z_STREAM_END;) {
        size_t left = (size_t)(file_end - file) - z.total_in, space = room - z.total_out;
        if (z.avail_in == 0)
            z.avail_in = left < 10000 ? left : 10000;
        z.avail_out = space < 999 ? space : 999;
        state = deflate(&z, z.avail_in == left ? Z_FINISH : Z_NO_FLUSH);
        if (state == Z_STREAM_ERROR || space == 0)
            return 0;
    }
    seen += z.total_in;
    size_t size = z.total_out;
    return deflateEnd(&z) == Z_OK ? size : 0;
}

static size_t compressed(int way, unsigned char *to, size_t room)
{
    size_t size = file_end - file;
    switch (way) {
    case ZLIB_FAST: return stream(to, room, 1, 15, Z_DEFAULT_STRATEGY);
    case ZLIB_BEST: return stream(to, room, 9, 15, Z_DEFAULT_STRATEGY);
    case ZLIB_HUFFMAN: return stream(to, room, 6, 15, Z_HUFFMAN_ONLY);
    case GZIP: return stream(to, room, 6, 15 + 16, Z_DEFAULT_STRATEGY);
    case LZ4: return LZ4_compress_default((const char *)file, (char *)to, size, room);
    default: return LZ4_compress_HC((const char *)file, (char *)to, size, room, LZ4HC_CLEVEL_DEFAULT);
    }
}

static int decompressed(int way, struct result from)
{
    size_t size = file_end - file, got = 0;
    unsigned char *to = malloc(size);
    if (!to)
        return 0;
    if (way < LZ4) {
        z_stream z = {0};
        z.next_in = from.bytes;
        z.avail_in = from.size;
        z.next_out = to;
        z.avail_out = size;
        /* 15 and 32: of either format. */
        if (inflateInit2(&z, 15 + 32) == Z_OK && inflate(&z, Z_FINISH) == Z_STREAM_END)
            got = z.total_out;
        inflateEnd(&z);
    } else {
        got = LZ4_decompress_safe((const char *)from.bytes, (char *)to, from.size, size);
    }
    int same = got == size && !memcmp(to, file, size);
    free(to);
    return same;
}

/* 1 if all is well. */
static int task(int way)
{
    size_t room = 2 * (file_end - file) + 1000;
    struct result result = {malloc(room), 0};
    if (!result.bytes)
        return 0;
    result.size = compressed(way, result.bytes, room);
    results[way] = result;
    size_t expected = way < LZ4 ? file_end - file : 0;
    return result.size && seen == expected && decompressed(way, result);
}

int test_main(void)
{
    int well = unspool_run_tasks(WAYS, task);
    for (int way = 0; way < WAYS; way++) {
        struct result *result = &results[way];
        unsigned long sum = crc32(adler32(1, result->bytes, result->size), result->bytes, result->size);
        printf("%d: %zu bytes of %zu, %08lx\n", way, result->size, (size_t)(file_end - file), sum);
        unspool_print((const char *)result->bytes, result->size);
        free(result->bytes);
    }
    return well;
}
