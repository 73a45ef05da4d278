/* A frame of a few hundred bytes. */
#define ROOM 0x110
#define SAVED "bx"
#include "passes.h"
