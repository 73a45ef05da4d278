// A module with thread-local variables, for glibc's side of the comparison. Every copy of it is a
// module of its own.

__thread long initialised[SIZE / 16] = {1, 2, 3};
__thread long zero[SIZE / 16];
