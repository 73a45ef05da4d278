// Kills through frames of C++: destructors run, and who might swallow one holds it off.
#include "unspool.h"

namespace {
void say(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    unspool_print(text, length);
}

struct Noisy {
    const char *text;
    ~Noisy() { say(text); }
};

// A safe point, with a value to destroy.
void die_here(const char *text)
{
    Noisy noisy{text};
    unspool_yield();
}

int through(int)
{
    Noisy outer{"outer "};
    unspool_cancel();
    try {
        // Neither this handler nor what it is for is the kill's.
        die_here("inner ");
    } catch (int) {
        say("caught ");
    }
    say("alive ");
    return 0;
}

// After a frame that did not let it through.
int after()
{
    say("here ");
    unspool_yield();
    say("alive ");
    return 0;
}

int rethrow(int)
{
    Noisy outer{"outer "};
    unspool_cancel();
    try {
        Noisy inner{"inner "};
        unspool_yield();
        say("not here, ");
    } catch (...) {
        say("caught ");
        throw;
    }
    return after();
}

int swallow(int)
{
    Noisy outer{"outer "};
    unspool_cancel();
    try {
        Noisy inner{"inner "};
        unspool_yield();
        say("not here, ");
    } catch (...) {
        say("caught ");
    }
    return after();
}

__attribute__((noinline)) void guarded() noexcept
{
    Noisy inner{"inner "};
    unspool_yield();
    say("not here, ");
}

int nothing_leaves(int)
{
    Noisy outer{"outer "};
    unspool_cancel();
    guarded();
    return after();
}
}

extern "C" int test_main(void) { return unspool_run_tasks(1, through); }
extern "C" int rethrows(void) { return unspool_run_tasks(1, rethrow); }
extern "C" int swallows(void) { return unspool_run_tasks(1, swallow); }
extern "C" int is_noexcept(void) { return unspool_run_tasks(1, nothing_leaves); }
