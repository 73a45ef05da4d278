// The C++ side of mixed.rs.
#include <cstdio>

struct Noisy {
    const char *name;
    ~Noisy() {
        std::printf("~%s\n", name);
        std::fflush(stdout);
    }
};

extern "C" void cpp_catch(void (*body)()) {
    try {
        Noisy noisy{"cpp_catch"};
        body();
    } catch (int n) {
        std::printf("caught %d\n", n);
        std::fflush(stdout);
    } catch (...) {
        std::puts("something foreign");
        std::fflush(stdout);
        throw;
    }
}

extern "C" void cpp_throw() {
    Noisy noisy{"cpp_throw"};
    throw 12;
}

extern "C" void cpp_through(void (*body)()) {
    Noisy noisy{"cpp_through"};
    body();
}
