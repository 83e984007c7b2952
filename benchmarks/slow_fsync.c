/*
 * A disk that always takes the same time: preloaded, fsync and fdatasync wait MICROSECONDS and do
 * nothing.
 */
#include <time.h>

static int wait_for_disk(void)
{
    struct timespec time = {MICROSECONDS / 1000000, MICROSECONDS % 1000000 * 1000};

    nanosleep(&time, 0);
    return 0;
}

int fsync(int file)
{
    (void)file;
    return wait_for_disk();
}

int fdatasync(int file)
{
    (void)file;
    return wait_for_disk();
}
