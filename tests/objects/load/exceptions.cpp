// Exceptions, their types and static variables, with the toolchain's own runtime (libsupc++.a).
#include "unspool.h"
#include <new>
#include <typeinfo>

namespace {
struct Base {
    virtual ~Base() {}
};
struct Derived : Base {
    explicit Derived(int value) : value(value) {}
    int value;
};
struct Guard {
    int &count;
    ~Guard() { count++; }
};

int lookup(Base *base)
{
    Derived *derived = dynamic_cast<Derived *>(base);
    return derived ? derived->value : -1;
}

int thrower(int value)
{
    // Several tasks initialize it at once.
    static Base *const once = new Derived(30);
    throw Derived(value + lookup(once));
}

// Each task throws, cleans up and catches; the type is looked at.
int catcher(int number)
{
    int cleaned = 0;
    try {
        Guard guard{cleaned};
        return thrower(number);
    } catch (int) {
        return -100;
    } catch (const Base &base) {
        return cleaned * dynamic_cast<const Derived &>(base).value;
    }
}

int rethrower(int number)
{
    try {
        throw number;
    } catch (...) {
        try {
            throw;
        } catch (int value) {
            return value;
        }
    }
}
}

extern "C" int test_main(void)
{
    // 30 + 31 + 32 + 33, and 0 + 1 + 2.
    return unspool_run_tasks(4, catcher) + unspool_run_tasks(3, rethrower);
}

extern "C" int uncaught(void) { throw 5; }

namespace {
struct Named : Derived {
    using Derived::Derived;
};

int on_a_task(int number)
{
    throw Named(number);
}
}

extern "C" int uncaught_on_a_task(void) { return unspool_run_tasks(1, on_a_task); }
