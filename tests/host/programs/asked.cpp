// How often C++'s personality reads where a frame is: each time that it is called, but for entering a
// handler. With OWN, the program's own personality is in its place.
#include <cstdint>
#include <cstdio>
#include <dlfcn.h>
#include <pthread.h>
#include <unwind.h>

static int asked, own;

extern "C" _Unwind_Ptr _Unwind_GetIPInfo(_Unwind_Context *context, int *before) {
    using Function = _Unwind_Ptr (*)(_Unwind_Context *, int *);
    static auto next = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "_Unwind_GetIPInfo"));
    asked++;
    return next(context, before);
}

#ifdef OWN
extern "C" _Unwind_Reason_Code __gxx_personality_v0(int version, _Unwind_Action actions,
                                                    _Unwind_Exception_Class kind,
                                                    _Unwind_Exception *exception,
                                                    _Unwind_Context *context) {
    using Function = decltype(&__gxx_personality_v0);
    static auto next = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "__gxx_personality_v0"));
    own++;
    return next(version, actions, kind, exception, context);
}
#endif

struct Says {
    const char *name;
    ~Says() { std::printf("~%s\n", name); }
};

static volatile bool yes = true;

[[gnu::noinline]] static void throws() {
    if (yes) throw 5;
}

// Its call has no landing pad, another one has.
[[gnu::noinline]] static void nothing() {
    throws();
    Says never{"never"};
    throws();
}

[[gnu::noinline]] static void cleanups(int depth) {
    Says says{depth % 2 ? "odd" : "even"};
    if (depth > 0) return cleanups(depth - 1);
    nothing();
}

// A cleanup, and then a handler that does not match.
[[gnu::noinline]] static void passes(void (*inner)()) {
    try {
        Says says{"passed"};
        inner();
    } catch (const char *) {
        std::puts("not a string");
    }
}

// A cleanup, and then a handler of the same frame that does.
[[gnu::noinline]] static void both(void (*inner)()) {
    try {
        Says says{"inner"};
        inner();
    } catch (int number) {
        std::printf("int %d\n", number);
        throw;
    }
}

[[gnu::noinline]] static void everything(void (*inner)()) {
    Says outer{"outer"};
    try {
        inner();
    } catch (...) {
        std::puts("anything");
        throw;
    }
}

static void report(const char *what) {
    std::printf("%s done\n", what);
    std::fprintf(stderr, "asked %d, own %d\n", asked, own);
    asked = own = 0;
}

static void forget(_Unwind_Reason_Code, _Unwind_Exception *) {}

static void foreign() {
    static _Unwind_Exception exception;
    exception.exception_class = 0x1234;
    exception.exception_cleanup = forget;
    _Unwind_RaiseException(&exception);
    std::puts("nobody catches");
}

static void *thread(void *) {
    Says says{"thread"};
    try {
        Says inner{"ended"};
        pthread_exit(nullptr);
    } catch (...) {
        std::puts("by force");
        throw;
    }
}

template <typename Body> static void caught(const char *what, Body body) {
    try {
        body();
    } catch (int) {
        std::puts("caught an int");
    } catch (...) {
        std::puts("caught something");
    }
    report(what);
}

int main() {
    caught("cleanups", [] { cleanups(9); });
    caught("passes", [] { passes([] { cleanups(1); }); });
    caught("both", [] { both([] { cleanups(1); }); });
    caught("everything", [] { everything([] { passes([] { both([] { nothing(); }); }); }); });
    caught("foreign", [] { everything([] { passes(foreign); }); });
    caught("nested", [] {
        struct Nests {
            ~Nests() { caught("inner", [] { cleanups(0); }); }
        } nests;
        cleanups(0);
    });
    pthread_t other;
    pthread_create(&other, nullptr, thread, nullptr);
    pthread_join(other, nullptr);
    report("forced");
}
