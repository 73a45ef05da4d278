/* Functions that `cargo xtask load` is tried with: one entry each. */
#include "unspool.h"

static _Thread_local int mine = 5;
static volatile int together;

/* Returns when there are four of them. */
static int meet(int number)
{
    mine += number;
    __atomic_fetch_add(&together, 1, __ATOMIC_SEQ_CST);
    while (together < 4) {
    }
    return mine;
}

/* Every byte must arrive as it is. */
int test_main(void)
{
    char bytes[256];
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    unspool_print(bytes, sizeof bytes);
    unspool_print("no newline at the end", 21);
    /* This task is older than the variable, those are younger: 5 + 5 + 6 + 7 + 8. */
    return mine + unspool_run_tasks(4, meet) - 31;
}

int seven(void) { return 7; }
int two_hundred(void) { return 200; }
int minus_one(void) { return -1; }
int no_tasks(void) { return unspool_run_tasks(-3, meet); }

static volatile int *volatile nowhere = (volatile int *)8;
int fault(void) { return *nowhere; }

static int second_panics(int number)
{
    if (number == 1)
        unspool_panic("the second of three");
    return meet(4);
}

int tasks_panic(void)
{
    together = 4;
    unspool_print("before", 6);
    return unspool_run_tasks(3, second_panics);
}

static void note(int *value)
{
    unspool_print("cleaned up ", 11);
    *value = 0;
}

/* A panic runs what C can have of destructors. */
int panic(void)
{
    __attribute__((cleanup(note))) int value = 1;
    if (mine == 5)
        unspool_panic("as asked");
    return value;
}

/* More tasks than there is memory for. */
int too_many(void) { return unspool_run_tasks(2147483647, meet); }
