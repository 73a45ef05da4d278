// Forced unwinding whose stop function changes the floating-point control words.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <unwind.h>

static uint32_t mxcsr() {
    uint32_t word;
    asm volatile("stmxcsr %0" : "=m"(word));
    return word;
}

static uint16_t x87() {
    uint16_t word;
    asm volatile("fnstcw %0" : "=m"(word));
    return word;
}

static uint32_t mxcsr_before;
static uint16_t x87_before;

struct Looks {
    ~Looks() {
        bool kept = mxcsr() == mxcsr_before && x87() == x87_before;
        std::printf("cleanup: %s\n", kept ? "kept" : "changed");
    }
};

static _Unwind_Reason_Code stop(int, _Unwind_Action actions, _Unwind_Exception_Class,
                                _Unwind_Exception *, _Unwind_Context *, void *) {
    if (actions & _UA_END_OF_STACK) {
        std::puts("end of stack");
        std::fflush(stdout);
        std::_Exit(0);
    }
    uint32_t rounds_up = 0x5f80;
    uint16_t single = 0x0c7f;
    asm volatile("ldmxcsr %0" : : "m"(rounds_up));
    asm volatile("fldcw %0" : : "m"(single));
    return _URC_NO_REASON;
}

__attribute__((noinline)) static void leave(int n) {
    Looks looks;
    if (n > 0) return leave(n - 1);
    static _Unwind_Exception exception;
    // What is restored is what was there, whatever it is.
    uint32_t down = 0x3f80;
    asm volatile("ldmxcsr %0" : : "m"(down));
    mxcsr_before = mxcsr();
    x87_before = x87();
    _Unwind_ForcedUnwind(&exception, stop, nullptr);
}

int main() { leave(1); }
