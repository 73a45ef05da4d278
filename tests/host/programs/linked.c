/* Calls what libgcc_s.so.1 exports of unwinding by name; to be linked against one that has it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

extern void __register_frame(void *), __deregister_frame(void *);
extern const void *_Unwind_Find_FDE(void *, void *);

static void say(const char **name) { printf("cleanup %s\n", *name); }

static int frames;

static _Unwind_Reason_Code count(struct _Unwind_Context *context, void *data) {
    int before;
    if (_Unwind_GetIP(context) != _Unwind_GetIPInfo(context, &before)) puts("two addresses");
    if (_Unwind_GetCFA(context) == 0) puts("no CFA");
    frames++;
    return _URC_NO_REASON;
}

static _Unwind_Reason_Code stop(int version, _Unwind_Action actions, _Unwind_Exception_Class class,
                                struct _Unwind_Exception *exception, struct _Unwind_Context *context,
                                void *function) {
    if ((void *)_Unwind_GetRegionStart(context) == function || (actions & _UA_END_OF_STACK)) {
        puts("stopped");
        exit(0);
    }
    return _URC_NO_REASON;
}

__attribute__((noinline)) static int forced(void) {
    const char *name __attribute__((cleanup(say))) = "on the way";
    static struct _Unwind_Exception exception;
    return _Unwind_ForcedUnwind(&exception, stop, 0);
}

int main(void) {
    _Unwind_Backtrace(count, 0);
    printf("%s\n", frames > 1 ? "frames" : "none");
    printf("%d\n", _Unwind_FindEnclosingFunction((char *)main + 1) == (void *)main);
    long bases[3];
    printf("%d\n", _Unwind_Find_FDE((char *)main + 1, bases) != 0 && bases[2] == (long)main);
    static long nothing[2];
    __register_frame(nothing);
    if (frames == 0) __deregister_frame(nothing);
    struct _Unwind_Exception exception;
    memset(&exception, 0, sizeof exception);
    printf("raised: %d\n", _Unwind_RaiseException(&exception));
    return forced();
}
