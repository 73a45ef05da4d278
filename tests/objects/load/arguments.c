/* A program's main, with its arguments. */
#include "unspool.h"
#include <string.h>

int main(int count, char **arguments, char **environment)
{
    if (count != 1 || arguments[1] || environment[0])
        return 1;
    const char *name = strrchr(arguments[0], '/');
    name = name ? name + 1 : arguments[0];
    unspool_print(name, strlen(name));
    return 42;
}
