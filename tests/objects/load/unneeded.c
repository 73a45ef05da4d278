/* A member of an archive that nobody needs, and that cannot be loaded. */
extern int nobody_at_all(int);
int unneeded(int n) { return nobody_at_all(n); }
