/* Answers SG_IO as a test says, for errors that no device can be made to have.
 *
 * Preloaded into the real helper or into ours: the file that FLOCKPR_SG_ANSWER names holds
 *     ERRNO HOST DRIVER STATUS RESIDUAL SENSE_LENGTH
 * and is read for each command. While there is a file of that name with ".hang", commands for
 * /dev/null are not answered. What was asked is appended to the file of that name with ".asked":
 *     ID DIRECTION CDB_LENGTH SENSE_ROOM SEGMENTS LENGTH TIMEOUT FLAGS CDB DATA_OUT
 *
 *     cc -shared -fPIC -o sg_answers.so sg_answers.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void wait_while_hung(int descriptor, const char *path)
{
    char hang[4096];
    struct stat found;

    snprintf(hang, sizeof hang, "%s.hang", path);
    if (fstat(descriptor, &found) || found.st_rdev != makedev(1, 3))
        return;
    while (!access(hang, F_OK))
        usleep(10000);
}

static void note(FILE *file, const unsigned char *bytes, unsigned length)
{
    fputc(' ', file);
    for (unsigned i = 0; i < length; i++)
        fprintf(file, "%02x", bytes[i]);
}

static int answer(const char *path, sg_io_hdr_t *header)
{
    int error, host, driver, status, residual, sense;
    char asked[4096];
    FILE *file;

    snprintf(asked, sizeof asked, "%s.asked", path);
    file = fopen(asked, "a");
    if (!file)
        abort();
    fprintf(file, "%c %d %d %d %d %u %u %u", header->interface_id, header->dxfer_direction,
            header->cmd_len, header->mx_sb_len, header->iovec_count, header->dxfer_len,
            header->timeout, header->flags);
    note(file, header->cmdp, header->cmd_len);
    if (header->dxfer_direction == SG_DXFER_TO_DEV)
        note(file, header->dxferp, header->dxfer_len);
    fputc('\n', file);
    fclose(file);
    file = fopen(path, "r");
    if (!file || fscanf(file, "%d %d %d %d %d %d", &error, &host, &driver, &status, &residual,
                        &sense) != 6)
        abort();
    fclose(file);
    header->host_status = host;
    header->driver_status = driver;
    header->status = status;
    header->resid = residual;
    header->sb_len_wr = sense;
    for (int i = 0; i < sense; i++)
        header->sbp[i] = 0xa0 + i % 16;
    if (header->dxfer_direction == SG_DXFER_FROM_DEV)
        for (unsigned i = 0; i < header->dxfer_len - residual; i++)
            ((unsigned char *)header->dxferp)[i] = i % 251;
    errno = error;
    return error ? -1 : 0;
}

int ioctl(int descriptor, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    const char *path = getenv("FLOCKPR_SG_ANSWER");
    va_list list;
    void *argument;

    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    if (!real)
        real = dlsym(RTLD_NEXT, "ioctl");
    if (request == SG_IO && path) {
        wait_while_hung(descriptor, path);
        return answer(path, argument);
    }
    return real(descriptor, request, argument);
}
