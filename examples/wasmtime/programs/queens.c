/* How many ways there are to put n queens on a board of n × n: work for the CPU, and recursion. */

static unsigned place(unsigned all, unsigned columns, unsigned left, unsigned right)
{
    unsigned ways = 0;
    if (columns == all)
        return 1;
    for (unsigned free = all & ~(columns | left | right); free != 0; free &= free - 1) {
        unsigned queen = free & -free;
        ways += place(all, columns | queen, (left | queen) << 1, (right | queen) >> 1);
    }
    return ways;
}

__attribute__((export_name("queens"))) unsigned queens(unsigned n)
{
    return place((1u << n) - 1, 0, 0, 0);
}
