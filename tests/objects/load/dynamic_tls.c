/* The same, asked for by calls (compiled for the general dynamic model). */
#include "static_tls.c"
