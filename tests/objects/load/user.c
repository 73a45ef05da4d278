/* Needs a member of an archive. */
extern int helper(int);
int test_main(void) { return helper(41); }
