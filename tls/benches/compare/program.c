// A program whose accesses the linker has relaxed: times the rows that it is asked for.

#include <stdint.h>
#include <time.h>
#include <unistd.h>

void local_exec(uint64_t), initial_exec(uint64_t), general_dynamic(uint64_t);
void local_dynamic(uint64_t), descriptor(uint64_t);

static void (*const rows[])(uint64_t) = {
    local_exec, initial_exec, general_dynamic, local_dynamic, descriptor,
};

static uint64_t now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

int main(void) {
    uint64_t request[2];
    while (read(0, request, sizeof request) == sizeof request) {
        rows[request[0]](request[1] / 8);
        uint64_t start = now();
        rows[request[0]](request[1]);
        uint64_t time = now() - start;
        if (write(1, &time, sizeof time) != sizeof time)
            return 1;
    }
    return 0;
}
