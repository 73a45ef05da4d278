/* A member of an archive that others need. */
int helper(int n) { return n + 1; }
