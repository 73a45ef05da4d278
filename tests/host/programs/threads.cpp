// Threads that end by force: pthread_cancel and pthread_exit run the cleanups.
#include <atomic>
#include <cxxabi.h>
#include <cstdio>
#include <initializer_list>
#include <pthread.h>
#include <sched.h>
#include <string>
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

static std::atomic<pid_t> sleeper;

// In a call, which tables cover: in a loop without one g++'s end the program, and clang's do not.
static void *asynchronous(void *) {
    Noisy noisy{"asynchronous"};
    int old;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    sleeper = gettid();
    for (;;) pause();
}

// Until it sleeps in `pause`.
static void wait_for_sleeper() {
    char state = 0;
    while (state != 'S') {
        sched_yield();
        auto path = "/proc/self/task/" + std::to_string(sleeper) + "/stat";
        if (FILE *file = std::fopen(path.c_str(), "r")) {
            if (std::fscanf(file, "%*d %*s %c", &state) != 1) state = 0;
            std::fclose(file);
        }
    }
}

int main() {
    if (pipe(ready) != 0) return 1;
    for (auto body : {cancelled, exits, asynchronous}) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, nullptr, body, nullptr);
        char c;
        if (body == cancelled && read(ready[0], &c, 1) != 1) return 1;
        if (body == asynchronous) wait_for_sleeper();
        if (body != exits) pthread_cancel(thread);
        pthread_join(thread, &result);
        std::printf("joined: %s\n", result == PTHREAD_CANCELED ? "cancelled"
                                    : result == (void *)5   ? "exited" : "returned");
    }
    // The main thread's stack as well.
    std::fflush(stdout);
    Noisy noisy{"main"};
    leave(2);
}
