/* Another register. */
#define ROOM 0x210
#define SAVED "bp"
#include "passes.h"
