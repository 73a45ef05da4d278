/* Functions of `unspool.h` for an ordinary program, and its `main`. */
#include "unspool.h"
#include <pthread.h>
#include <stdio.h>

void unspool_print(const char *text, size_t length)
{
    fwrite(text, 1, length, stdout);
}

struct task {
    pthread_t thread;
    int (*function)(int);
    int number, result;
};

static void *run(void *argument)
{
    struct task *task = argument;
    task->result = task->function(task->number);
    return NULL;
}

int unspool_run_tasks(int n, int (*function)(int))
{
    struct task tasks[n];
    int sum = 0;
    for (int i = 0; i < n; i++) {
        tasks[i] = (struct task){.function = function, .number = i};
        if (pthread_create(&tasks[i].thread, NULL, run, &tasks[i]))
            return -1;
    }
    for (int i = 0; i < n; i++) {
        pthread_join(tasks[i].thread, NULL);
        sum += tasks[i].result;
    }
    return sum;
}

extern int test_main(void);

int main(void) { return test_main(); }
