/*
 * What a durable commit costs at the least, one after the other: the system calls and no more.
 *
 * Usage: commit_loop FOLDER BYTES SECONDS
 *
 * Each commit writes BYTES to a new file, syncs it, links it to the next number, syncs the
 * folder, renames the first name over "registry", and takes the number before away.
 * Prints the number of commits, the seconds that they took, the median and the 99th percentile
 * of their times in microseconds, how much of one core this program used, and 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "commit_loop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double used(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void commit(int folder, uint64_t number, const char *document, size_t bytes)
{
    char name[32], before[32];
    int file = openat(folder, "aside", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    snprintf(name, sizeof name, "%020llu", (unsigned long long)number);
    snprintf(before, sizeof before, "%020llu", (unsigned long long)number - 1);
    if (file < 0)
        fail("open");
    if (write(file, document, bytes) != (ssize_t)bytes)
        fail("write");
    if (fsync(file))
        fail("fsync");
    close(file);
    if (linkat(folder, "aside", folder, name, 0))
        fail("link");
    if (fsync(folder))
        fail("fsync of the folder");
    if (renameat(folder, "aside", folder, "registry"))
        fail("rename");
    if (number && unlinkat(folder, before, 0))
        fail("unlink");
}

static int by_size(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

int main(int count, char **arguments)
{
    uint64_t *times = NULL;
    size_t done = 0, room = 0, bytes;
    double begun, end, until, before;
    char *document, last[32];
    int folder;

    if (count != 4) {
        fprintf(stderr, "usage: commit_loop FOLDER BYTES SECONDS\n");
        return 2;
    }
    folder = open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        fail(arguments[1]);
    bytes = (size_t)atol(arguments[2]);
    document = malloc(bytes + 1);
    if (!document)
        fail("document");
    memset(document, '{', bytes);
    before = used();
    begun = end = now();
    until = begun + atof(arguments[3]);
    do {
        double start = end;

        if (done == room) {
            room = room ? room * 2 : 1 << 14;
            times = realloc(times, room * sizeof *times);
            if (!times)
                fail("times");
        }
        commit(folder, done, document, bytes);
        end = now();
        times[done++] = (uint64_t)((end - start) * 1e9);
    } while (end < until);
    before = used() - before;
    snprintf(last, sizeof last, "%020llu", (unsigned long long)done - 1);
    unlinkat(folder, last, 0); /* so that the next run begins anew */
    unlinkat(folder, "registry", 0);
    qsort(times, done, sizeof *times, by_size);
    printf("%zu %.6f %.3f %.3f %.3f 0\n", done, end - begun, (double)times[done / 2] / 1e3,
           (double)times[done * 99 / 100] / 1e3, before / (end - begun));
    return 0;
}
