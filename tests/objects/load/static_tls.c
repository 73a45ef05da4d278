/* 4096 bytes that must be in every task's static TLS space (compiled for the initial-exec model). */
_Thread_local char room[4096] = { 1 };

int test_main(void) { return room[0] + room[4095]; }
