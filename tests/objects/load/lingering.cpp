// A thread-local variable of the task that loads, which it keeps: its destructor is pending.
namespace {
struct Lingering {
    int value;
    ~Lingering() { value = 0; }
};
thread_local Lingering lingering;

__attribute__((constructor)) void touch() { lingering.value = 1; }
}

extern "C" int test_main(void) { return 0; }
extern "C" int five(void) { return 5; }
