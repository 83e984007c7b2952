/*
 * A disk that always takes the same time: preloaded, fsync waits MICROSECONDS and does nothing.
 */
#include <time.h>

int fsync(int file)
{
    struct timespec time = {MICROSECONDS / 1000000, MICROSECONDS % 1000000 * 1000};

    (void)file;
    nanosleep(&time, 0);
    return 0;
}
