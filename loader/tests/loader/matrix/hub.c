/* What all guests of the matrix share. */
__thread unsigned long shared = 1000;
unsigned long counter = 0;
unsigned long hub(unsigned long x) { return 3 * x + 1; }
unsigned long *where_shared(void) { return &shared; }
unsigned long count(void) { return counter; }
