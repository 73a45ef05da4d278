// Compiled twice: the same code at the same offsets but for the size of a frame.
extern "C" int run(int n) {
    volatile char area[SIZE];
    struct Restore {
        volatile char *p;
        ~Restore() { *p = 0; }
    } restore{area};
    area[SIZE - 1] = n;
    try {
        if (n == 0) throw 'c';
        if (n == 1) throw SIZE;
    } catch (char) {
        return -SIZE;
    }
    return area[SIZE - 1];
}
