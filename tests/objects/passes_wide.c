/* A larger frame. */
#define ROOM 0x320
#define SAVED "bx"
#include "passes.h"
