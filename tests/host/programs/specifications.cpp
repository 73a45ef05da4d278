// Exception specifications, kept and broken (-std=c++14: the dynamic ones are gone since C++17).
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

struct Noisy {
    const char *name;
    ~Noisy() { std::printf("~%s\n", name); }
};

struct Base { virtual ~Base() {} };
struct Derived : Base {};

__attribute__((noinline)) static void thrower(int kind) {
    Noisy noisy{"thrower"};
    switch (kind) {
    case 0: throw 42;
    case 1: throw Derived();
    case 2: throw std::runtime_error("unlisted");
    case 3: throw 'c';
    }
}

__attribute__((noinline)) static void nothing(int kind) throw() {
    Noisy noisy{"nothing"};
    thrower(kind);
}

__attribute__((noinline)) static void some(int kind) throw(int, Base) {
    Noisy noisy{"some"};
    thrower(kind);
}

__attribute__((noinline)) static void or_bad(int kind) throw(int, std::bad_exception) {
    Noisy noisy{"or_bad"};
    thrower(kind);
}

// A specification inside another one, in one frame if it is inlined.
static void inner(int kind) throw(int, char) { thrower(kind); }
__attribute__((noinline)) static void outer(int kind) throw(char, Base) {
    Noisy noisy{"outer"};
    inner(kind);
}

__attribute__((noinline)) static void never(int kind) noexcept {
    Noisy noisy{"never"};
    thrower(kind);
}

__attribute__((noinline)) static void perhaps(int kind) noexcept(false) { thrower(kind); }

struct Limited {
    int kind;
    // A destructor is noexcept.
    ~Limited() { thrower(kind); }
};

struct Member {
    explicit Member(int kind) throw(int) try : noisy{"member"} {
        thrower(kind);
    } catch (char) {
        std::puts("the constructor's own");
        throw 1;
    }
    Noisy noisy;
};

static void caught(void (*function)(int), int kind) {
    try {
        Noisy noisy{"caller"};
        function(kind);
        std::puts("nothing thrown");
    } catch (int n) {
        std::printf("int %d\n", n);
    } catch (const Base &) {
        std::puts("base");
    } catch (const std::bad_exception &) {
        std::puts("bad_exception");
    } catch (...) {
        std::puts("something");
    }
}

static void translates() {
    std::puts("unexpected: an int instead");
    throw 7;
}

static void rethrows() {
    std::puts("unexpected: again");
    throw;
}

static void gives_up() {
    std::puts("unexpected: gives up");
    std::fflush(stdout);
    std::_Exit(9);
}

// Each in a process of its own: most end.
static void apart(const char *what, void (*unexpected)(), void (*function)(int), int kind) {
    std::printf("-- %s\n", what);
    std::fflush(stdout);
    int status = 0;
    if (fork() == 0) {
        std::set_terminate([] {
            std::puts("terminate");
            if (std::exception_ptr current = std::current_exception()) {
                try {
                    std::rethrow_exception(current);
                } catch (int n) {
                    std::printf("because of %d\n", n);
                } catch (std::exception &e) {
                    std::printf("because of %s\n", e.what());
                } catch (...) {
                    std::puts("because of something");
                }
            }
            std::fflush(stdout);
            std::_Exit(8);
        });
        if (unexpected) std::set_unexpected(unexpected);
        caught(function, kind);
        std::fflush(stdout);
        std::_Exit(0);
    }
    wait(&status);
    std::printf("ended with %d\n", WEXITSTATUS(status));
}

int main() {
    for (int kind = 0; kind < 5; kind++) {
        std::printf("== %d\n", kind);
        apart("throw()", nullptr, nothing, kind);
        apart("throw(int, Base)", nullptr, some, kind);
        apart("throw(int, Base), translated", translates, some, kind);
        apart("throw(int, Base), again", rethrows, some, kind);
        apart("throw(int, Base), given up", gives_up, some, kind);
        apart("throw(int, bad_exception), again", rethrows, or_bad, kind);
        apart("throw(int, bad_exception), translated", translates, or_bad, kind);
        apart("throw() translated", translates, nothing, kind);
        apart("one in another", nullptr, outer, kind);
        apart("one in another, translated", translates, outer, kind);
        apart("noexcept", nullptr, never, kind);
        apart("noexcept(false)", nullptr, perhaps, kind);
        apart("a destructor", nullptr, [](int kind) { Limited limited{kind}; }, kind);
        apart("a constructor", nullptr, [](int kind) { Member member{kind}; }, kind);
        apart("a pointer to noexcept", nullptr, [](int kind) {
            try {
                Noisy noisy{"in a lambda"};
                void (*function)(int) = never;
                function(kind);
            } catch (...) {
                std::puts("not reached");
            }
        }, kind);
    }
}
