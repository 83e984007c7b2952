/* Gives the tools of sg3_utils an iSCSI disk without a kernel that has logged in to it.
 *
 * Preloaded into an unmodified sg_persist or sg_turs, this library answers for one path, the one
 * that FLOCKPR_SG_DEVICE names: opening it logs in to FLOCKPR_SG_URL as FLOCKPR_SG_INITIATOR with
 * libiscsi, and SG_IO on the descriptor carries the command to the target. Nothing is added and
 * nothing is swallowed: a unit attention that waits is the answer to the tool's own first command.
 *
 *     cc -shared -fPIC -o sg_over_iscsi.so sg_over_iscsi.c -liscsi
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GOOD = 0x00, CHECK = 0x02, BUSY = 0x08, CONFLICT = 0x18, DRIVER_SENSE = 0x08 };

static struct iscsi_context *session;
static int lun, device_fd = -1;

static const char *setting(const char *name)
{
    const char *value = getenv(name);

    if (!value) {
        fprintf(stderr, "sg_over_iscsi: %s is not set\n", name);
        abort();
    }
    return value;
}

/* One session for the life of the process: sg_persist opens its device twice. */
static int log_in(void)
{
    struct iscsi_url *url;

    if (session)
        return 0;
    session = iscsi_create_context(setting("FLOCKPR_SG_INITIATOR"));
    url = iscsi_parse_full_url(session, setting("FLOCKPR_SG_URL"));
    if (!url)
        abort();
    iscsi_set_targetname(session, url->target);
    iscsi_set_session_type(session, ISCSI_SESSION_NORMAL);
    iscsi_set_noautoreconnect(session, 1);
    lun = url->lun;
    /* Not iscsi_full_connect_sync: that sends commands of its own, which eat unit attentions. */
    if (iscsi_connect_sync(session, url->portal) || iscsi_login_sync(session)) {
        fprintf(stderr, "sg_over_iscsi: %s\n", iscsi_get_error(session));
        return -EIO;
    }
    return 0;
}

__attribute__((destructor)) static void log_out(void)
{
    if (session)
        iscsi_logout_sync(session);
}

/* What a C library built with checks calls for an open without O_CREAT. */
int __open64_2(const char *path, int flags)
{
    int (*next)(const char *, int) = dlsym(RTLD_NEXT, "__open64_2");
    const char *device = getenv("FLOCKPR_SG_DEVICE");

    if (!device || strcmp(path, device))
        return next(path, flags);
    if (log_in())
        return errno = EIO, -1;
    return device_fd = next("/dev/null", O_RDWR);
}

/* What Python opens with. */
int open64(const char *path, int flags, ...)
{
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    const char *device = getenv("FLOCKPR_SG_DEVICE");
    va_list more;
    unsigned mode = 0;

    if (device && !strcmp(path, device)) {
        if (log_in())
            return errno = EIO, -1;
        return device_fd = next("/dev/null", O_RDWR);
    }
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_start(more, flags);
        mode = va_arg(more, unsigned);
        va_end(more);
    }
    return next(path, flags, mode);
}

static int send_command(struct sg_io_hdr *io)
{
    struct scsi_task *task;
    struct iscsi_data out = { io->dxfer_len, io->dxferp };
    int direction = io->dxfer_direction == SG_DXFER_TO_DEV     ? SCSI_XFER_WRITE
                    : io->dxfer_direction == SG_DXFER_FROM_DEV ? SCSI_XFER_READ
                                                               : SCSI_XFER_NONE;
    unsigned length = direction == SCSI_XFER_NONE ? 0 : io->dxfer_len;

    task = scsi_create_task(io->cmd_len, io->cmdp, direction, length);
    if (!task || !iscsi_scsi_command_sync(session, lun, task,
                                          direction == SCSI_XFER_WRITE ? &out : NULL)) {
        fprintf(stderr, "sg_over_iscsi: %s\n", iscsi_get_error(session));
        return errno = EIO, -1;
    }
    io->status = task->status;
    io->masked_status = task->status >> 1;
    io->host_status = io->driver_status = io->sb_len_wr = io->resid = io->duration = 0;
    if (task->status == CHECK && task->datain.size > 2) { /* the length, then the sense data */
        unsigned sense = task->datain.size - 2;

        io->driver_status = DRIVER_SENSE;
        io->sb_len_wr = sense < io->mx_sb_len ? sense : io->mx_sb_len;
        memcpy(io->sbp, task->datain.data + 2, io->sb_len_wr);
    }
    if (direction == SCSI_XFER_READ) {
        unsigned came = task->status == GOOD ? task->datain.size : 0;

        came = came < length ? came : length;
        memcpy(io->dxferp, task->datain.data, came);
        io->resid = length - came;
    }
    scsi_free_scsi_task(task);
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    va_list more;
    void *argument;

    va_start(more, request);
    argument = va_arg(more, void *);
    va_end(more);
    if (fd < 0 || fd != device_fd)
        return next(fd, request, argument);
    if (request != SG_IO)
        return errno = ENOTTY, -1;
    return send_command(argument);
}
