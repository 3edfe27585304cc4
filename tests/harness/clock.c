/* Shifts the wall clock of one process, for tests: loaded with LD_PRELOAD, it adds to CLOCK_REALTIME
 * the seconds that stand in the file which TEST_CLOCK names. The file is read each time, so that the
 * clock can be set while the process runs. The monotonic clock is left alone. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, id, now);
    const char *path = getenv("TEST_CLOCK");
    if (failed || id != CLOCK_REALTIME || !path)
        return (int)failed;
    FILE *file = fopen(path, "re");
    long seconds = 0;
    if (!file || fscanf(file, "%ld", &seconds) != 1)
        abort(); /* A test without its clock would show nothing. */
    fclose(file);
    now->tv_sec += seconds;
    return 0;
}
