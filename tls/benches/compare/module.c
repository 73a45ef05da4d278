// A module with thread-local variables, for glibc's side of the comparison. Every copy of it is a
// module of its own.

__thread long initialised[SIZE / 16] = {1, 2, 3};
__thread long zero[SIZE / 16];

#ifdef DESCRIPTOR
// The descriptor of a variable, as the linker made it. A module that has one gets static space if
// there is some left, so only a large one does.
__attribute__((visibility("hidden"))) extern __thread long initialised[SIZE / 16];

void *descriptor(void) {
    void *address;
    __asm__("leaq initialised@tlsdesc(%%rip), %%rax" : "=a"(address));
    return address;
}
#endif
