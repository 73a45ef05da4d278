// Exceptions of every kind that C++ has.
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Noisy {
    const char *name;
    ~Noisy() { std::printf("~%s\n", name); }
};

struct Base { virtual ~Base() {} int n = 1; };
struct Other { int m = 2; };
struct Derived : Other, Base {};

__attribute__((noinline)) static void thrower(int kind) {
    Noisy noisy{"thrower"};
    switch (kind) {
    case 0: throw 42;
    case 1: throw std::runtime_error("a runtime error");
    case 2: throw Derived();
    case 3: throw "text";
    case 4: throw (const void *)nullptr;
    }
}

static void kinds() {
    for (int kind = 0; kind < 6; kind++) {
        try {
            Noisy noisy{"kinds"};
            thrower(kind);
            std::puts("nothing thrown");
        } catch (int n) {
            std::printf("int %d\n", n);
        } catch (const std::exception &e) {
            std::printf("exception %s\n", e.what());
        } catch (Base &b) {
            std::printf("base %d\n", b.n);
        } catch (const char *s) {
            std::printf("string %s\n", s);
        } catch (...) {
            std::puts("something");
        }
    }
}

static void rethrow() {
    try {
        try {
            thrower(1);
        } catch (std::exception &e) {
            Noisy noisy{"rethrowing"};
            throw;
        }
    } catch (std::runtime_error &e) {
        std::printf("again %s\n", e.what());
    }
}

static void nested() {
    try {
        try {
            thrower(1);
        } catch (...) {
            std::throw_with_nested(std::logic_error("outer"));
        }
    } catch (std::exception &e) {
        std::printf("%s\n", e.what());
        try {
            std::rethrow_if_nested(e);
        } catch (std::exception &inner) {
            std::printf("inside: %s\n", inner.what());
        }
    }
}

struct Throws {
    ~Throws() noexcept(false) {
        try {
            Noisy noisy{"in a destructor"};
            thrower(0);
        } catch (int n) {
            std::printf("caught %d while %d in flight\n", n, std::uncaught_exceptions());
        }
    }
};

static void during_cleanup() {
    try {
        Throws throws;
        thrower(3);
    } catch (const char *s) {
        std::printf("still %s\n", s);
    }
}

static void pointers() {
    std::exception_ptr kept;
    try {
        thrower(2);
    } catch (...) {
        kept = std::current_exception();
    }
    for (int i = 0; i < 2; i++) {
        try {
            std::rethrow_exception(kept);
        } catch (Base &b) {
            std::printf("kept %d\n", b.n);
        }
    }
    std::exception_ptr elsewhere;
    std::thread([&] {
        try {
            thrower(1);
        } catch (...) {
            elsewhere = std::current_exception();
        }
    }).join();
    try {
        std::rethrow_exception(elsewhere);
    } catch (std::exception &e) {
        std::printf("from a thread: %s\n", e.what());
    }
}

struct Member {
    Noisy noisy{"member"};
    Member(int kind) try : noisy{"member of try"} {
        thrower(kind);
    } catch (int n) {
        std::printf("constructor %d\n", n);
    }
};

static void constructors() {
    try {
        Member m(0);
    } catch (int n) {
        std::printf("left the constructor: %d\n", n);
    }
}

static void limited() noexcept(true) {
    try {
        thrower(0);
    } catch (...) {
        std::puts("inside noexcept");
    }
}

static void uncaught() {
    std::set_terminate([] {
        std::puts("terminate");
        std::fflush(stdout);
        std::_Exit(7);
    });
    Noisy noisy{"never"};
    thrower(1);
}

static void threads() {
    std::vector<std::thread> all;
    std::vector<long> sums(4);
    for (int t = 0; t < 4; t++)
        all.emplace_back([t, &sums] {
            for (int i = 0; i < 2000; i++) {
                try {
                    std::string s(i % 50, 'x');
                    if (i % 3 == t % 3) throw i;
                    throw s;
                } catch (int n) {
                    sums[t] += n;
                } catch (std::string &s) {
                    sums[t] += s.size();
                }
            }
        });
    for (auto &t : all) t.join();
    for (long s : sums) std::printf("%ld\n", s);
}

int main() {
    kinds();
    rethrow();
    nested();
    during_cleanup();
    pointers();
    constructors();
    limited();
    threads();
    std::fflush(stdout);
    uncaught();
}
