// Threads that end by force: pthread_cancel and pthread_exit run the cleanups.
#include <cxxabi.h>
#include <cstdio>
#include <initializer_list>
#include <pthread.h>
#include <unistd.h>

struct Noisy {
    const char *name;
    ~Noisy() { std::printf("~%s\n", name); }
};

static int ready[2];

static void tell() {
    char c = 1;
    if (write(ready[1], &c, 1) != 1) std::puts("write");
}

static void *cancelled(void *) {
    Noisy outer{"outer"};
    pthread_cleanup_push([](void *s) { std::printf("handler %s\n", (char *)s); }, (void *)"pushed");
    try {
        Noisy inner{"inner"};
        tell();
        for (;;) pause();
    } catch (abi::__forced_unwind &) {
        std::puts("forced");
        throw;
    } catch (...) {
        std::puts("never");
    }
    pthread_cleanup_pop(0);
    return nullptr;
}

__attribute__((noinline)) static void leave(int n) {
    Noisy noisy{"leave"};
    if (n == 0) pthread_exit((void *)5);
    leave(n - 1);
}

static void *exits(void *) {
    Noisy noisy{"exits"};
    leave(3);
    return nullptr;
}

static void *asynchronous(void *) {
    Noisy noisy{"asynchronous"};
    int old;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    tell();
    for (volatile unsigned long n = 0;; n++) {}
}

int main() {
    if (pipe(ready) != 0) return 1;
    for (auto body : {cancelled, exits, asynchronous}) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, nullptr, body, nullptr);
        if (body != exits) {
            char c;
            if (read(ready[0], &c, 1) != 1) return 1;
            pthread_cancel(thread);
        }
        pthread_join(thread, &result);
        std::printf("joined: %s\n", result == PTHREAD_CANCELED ? "cancelled"
                                    : result == (void *)5   ? "exited" : "returned");
    }
    // The main thread's stack as well.
    std::fflush(stdout);
    Noisy noisy{"main"};
    leave(2);
}
