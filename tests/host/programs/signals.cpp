// Exceptions out of signal handlers (-fnon-call-exceptions), on the same stack and on another.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

struct Noisy {
    const char *name;
    ~Noisy() { std::printf("~%s\n", name); }
};

static void handler(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    throw signal;
}

__attribute__((noinline)) static int load(volatile int *p) {
    Noisy noisy{"load"};
    return *p;
}

static void faults(int flags) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGFPE, &action, nullptr);
    for (int i = 0; i < 3; i++) {
        try {
            Noisy noisy{"faults"};
            load((volatile int *)8);
        } catch (int signal) {
            std::printf("signal %d\n", signal);
        }
    }
    volatile int zero = 0;
    try {
        Noisy noisy{"divides"};
        std::printf("%d\n", 1 / zero);
    } catch (int signal) {
        std::printf("signal %d\n", signal);
    }
}

int main() {
    faults(0);
    stack_t stack = {};
    stack.ss_size = 1 << 16;
    stack.ss_sp = mmap(nullptr, stack.ss_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&stack, nullptr);
    faults(SA_ONSTACK);
    // And one above the stack that is interrupted: in a frame of this one.
    alignas(16) char above[1 << 16];
    std::thread([&] {
        stack.ss_sp = above;
        sigaltstack(&stack, nullptr);
        faults(SA_ONSTACK);
    }).join();
}
