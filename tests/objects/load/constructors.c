/* Constructors run before the entry, destructors before it is unloaded. */
#include "unspool.h"
static void say(const char *word) { unspool_print(word, 6); }
__attribute__((constructor)) static void begin(void) { say("begin "); }
__attribute__((destructor)) static void end(void) { say("ended "); }
int test_main(void) { say("entry "); return 0; }
