// C++ through C through C++, and through qsort.
#include <cstdio>
#include <cstdlib>

extern "C" int through_c(int (*next)(int), int n);
extern "C" int plain_c(int (*next)(int), int n);

static int third(int i) {
    if (i == 2) throw i;
    return i;
}

int main() {
    try {
        through_c(third, 5);
    } catch (int n) {
        std::printf("caught %d\n", n);
    }
    try {
        plain_c([](int i) { return through_c(third, i); }, 4);
    } catch (int n) {
        std::printf("caught %d\n", n);
    }
    int numbers[] = {3, 1, 2};
    try {
        std::qsort(numbers, 3, sizeof *numbers, [](const void *, const void *) -> int { throw 9; });
    } catch (int n) {
        std::printf("out of qsort %d\n", n);
    }
}
