/* Makes QEMU take a plain file for a SCSI disk.
 *
 * QEMU routes PERSISTENT RESERVE to its pr-manager only on the way to a real SCSI device
 * (driver host_device under scsi-block), and machines that run tests have none to spare.
 * Preloaded into an unmodified QEMU this library lies about one file, the one that
 * FLOCKPR_SHIM_DISK names: it is a block device, and SG_IO on it is answered here. What
 * passes through the pr-manager never comes here: this disk knows no PERSISTENT RESERVE and
 * refuses it, so a PR command that QEMU did not route is seen at once.
 *
 *     cc -shared -fPIC -o sgshim.so sgshim.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <linux/fs.h>
#include <scsi/scsi.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BLOCK = 512, SG_VERSION = 30536, SENSE_LENGTH = 18 };

/* Sense keys and additional codes, as 0xKKAAQQ. */
enum {
    MEDIUM_WRITE_ERROR = 0x030c00,
    MEDIUM_READ_ERROR = 0x031100,
    BAD_OPCODE = 0x052000,
    BAD_FIELD = 0x052400,
};

static struct {
    int (*fstat)(int, struct stat64 *);
    int (*stat)(const char *, struct stat64 *);
    int (*ioctl)(int, unsigned long, ...);
} libc;

static struct stat64 disk; /* the plain file; st_ino 0 when there is none */

/* Before main, or on the first call: constructors of QEMU's libraries may run before ours. */
__attribute__((constructor)) static void load(void)
{
    const char *path = getenv("FLOCKPR_SHIM_DISK");

    if (libc.ioctl)
        return;
    libc.fstat = dlsym(RTLD_NEXT, "fstat64");
    libc.stat = dlsym(RTLD_NEXT, "stat64");
    if (!path || libc.stat(path, &disk) != 0)
        disk.st_ino = 0;
    libc.ioctl = dlsym(RTLD_NEXT, "ioctl");
}

/* --- which file ------------------------------------------------------------------------ */

static int disguise(int result, struct stat64 *s)
{
    if (result == 0 && disk.st_ino && s->st_dev == disk.st_dev && s->st_ino == disk.st_ino) {
        s->st_mode = S_IFBLK | 0660;
        /* a number that no driver has: QEMU looks the device's limits up in sysfs by it */
        s->st_rdev = makedev(0, 0xfffff);
    }
    return result;
}

int fstat64(int fd, struct stat64 *s)
{
    load();
    return disguise(libc.fstat(fd, s), s);
}

int stat64(const char *path, struct stat64 *s)
{
    load();
    return disguise(libc.stat(path, s), s);
}

static bool is_disk(int fd)
{
    struct stat64 s;

    return disk.st_ino && libc.fstat(fd, &s) == 0 && s.st_dev == disk.st_dev &&
           s.st_ino == disk.st_ino;
}

static uint64_t capacity(int fd)
{
    struct stat64 s;

    return libc.fstat(fd, &s) == 0 ? s.st_size : 0;
}

/* --- answers --------------------------------------------------------------------------- */

static void big_endian(uint8_t *to, uint64_t value, int bytes)
{
    while (bytes--) {
        to[bytes] = value & 0xff;
        value >>= 8;
    }
}

static uint64_t number(const uint8_t *from, int bytes)
{
    uint64_t value = 0;

    while (bytes--)
        value = value << 8 | *from++;
    return value;
}

static void refuse(struct sg_io_hdr *io, unsigned code)
{
    uint8_t sense[SENSE_LENGTH] = { [0] = 0x70, [2] = code >> 16, [7] = SENSE_LENGTH - 8,
                                    [12] = code >> 8 & 0xff, [13] = code & 0xff };

    io->sb_len_wr = io->mx_sb_len < SENSE_LENGTH ? io->mx_sb_len : SENSE_LENGTH;
    memcpy(io->sbp, sense, io->sb_len_wr);
    io->status = 0x02; /* CHECK CONDITION */
    io->masked_status = CHECK_CONDITION;
    io->driver_status = 0x08; /* sense is valid */
    io->resid = io->dxfer_len;
}

/* The guest's memory, one or many pieces. */
static struct iovec *pieces(struct sg_io_hdr *io, struct iovec *single, int *count)
{
    if (io->iovec_count) {
        *count = io->iovec_count;
        return io->dxferp;
    }
    *single = (struct iovec){ io->dxferp, io->dxfer_len };
    *count = 1;
    return single;
}

static void give(struct sg_io_hdr *io, const uint8_t *data, unsigned length)
{
    struct iovec single;
    int count;
    struct iovec *piece = pieces(io, &single, &count);
    unsigned done = 0;

    if (length > io->dxfer_len)
        length = io->dxfer_len;
    for (; count-- && done < length; piece++) {
        unsigned part = length - done < piece->iov_len ? length - done : piece->iov_len;

        memcpy(piece->iov_base, data + done, part);
        done += part;
    }
    io->resid = io->dxfer_len - done;
}

static void inquiry(struct sg_io_hdr *io, bool vital, uint8_t page)
{
    static const char standard[36] = "\0\0\6\2\x1f\0\0\2FLOCKPR TEST DISK       0001";
    static const uint8_t pages[] = { 0, 0, 0, 3, 0x00, 0x80, 0x83 };
    uint8_t data[16] = { [1] = page };

    if (!vital) {
        give(io, (const uint8_t *)standard, sizeof standard);
    } else if (page == 0x00) {
        give(io, pages, sizeof pages);
    } else if (page == 0x80) { /* unit serial number */
        data[3] = 8;
        memcpy(data + 4, "FLOCKPR0", 8);
        give(io, data, 12);
    } else if (page == 0x83) { /* one designator: binary, NAA, locally assigned */
        memcpy(data + 3, "\x0c\1\3\0\x08", 5);
        big_endian(data + 8, 3ull << 60 | disk.st_ino, 8);
        give(io, data, 16);
    } else {
        refuse(io, BAD_FIELD);
    }
}

static void move(int fd, struct sg_io_hdr *io, bool write, uint64_t block)
{
    struct iovec single;
    int count;
    struct iovec *piece = pieces(io, &single, &count);
    off64_t offset = block * BLOCK;
    ssize_t done = write ? pwritev64(fd, piece, count, offset)
                         : preadv64(fd, piece, count, offset);

    if (done != (ssize_t)io->dxfer_len)
        refuse(io, write ? MEDIUM_WRITE_ERROR : MEDIUM_READ_ERROR);
}

static void answer(int fd, struct sg_io_hdr *io)
{
    const uint8_t *cdb = io->cmdp;
    uint64_t last = capacity(fd) / BLOCK - 1;
    uint8_t data[32] = { 0 };

    io->status = io->masked_status = io->host_status = io->driver_status = 0;
    io->resid = 0;
    io->sb_len_wr = 0;

    switch (cdb[0]) {
    case TEST_UNIT_READY:
        break;
    case SYNCHRONIZE_CACHE:
        fdatasync(fd);
        break;
    case INQUIRY:
        inquiry(io, cdb[1] & 1, cdb[2]);
        break;
    case MODE_SENSE: /* no pages, no block descriptors */
        data[0] = 3;
        give(io, data, 4);
        break;
    case MODE_SENSE_10:
        data[1] = 6;
        give(io, data, 8);
        break;
    case READ_CAPACITY:
        big_endian(data, last > UINT32_MAX ? UINT32_MAX : last, 4);
        big_endian(data + 4, BLOCK, 4);
        give(io, data, 8);
        break;
    case 0x9e: /* SERVICE ACTION IN (16) */
        if ((cdb[1] & 0x1f) != 0x10) {
            refuse(io, BAD_FIELD);
            break;
        }
        big_endian(data, last, 8);
        big_endian(data + 8, BLOCK, 4);
        give(io, data, 32);
        break;
    case 0xa0: /* REPORT LUNS: one, number 0 */
        data[3] = 8;
        give(io, data, 16);
        break;
    case READ_10:
    case WRITE_10:
        move(fd, io, cdb[0] == WRITE_10, number(cdb + 2, 4));
        break;
    case 0x88: /* READ (16), WRITE (16) */
    case 0x8a:
        move(fd, io, cdb[0] == 0x8a, number(cdb + 2, 8));
        break;
    default:
        refuse(io, BAD_OPCODE);
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    void *argument;

    va_start(rest, request);
    argument = va_arg(rest, void *);
    va_end(rest);

    load();
    if (is_disk(fd)) {
        switch (request) {
        case SG_IO:
            answer(fd, argument);
            return 0;
        case SG_GET_VERSION_NUM:
            *(int *)argument = SG_VERSION;
            return 0;
        case BLKSSZGET:
        case BLKPBSZGET:
            *(int *)argument = BLOCK;
            return 0;
        case BLKROGET:
            *(int *)argument = 0;
            return 0;
        case BLKGETSIZE64:
            *(uint64_t *)argument = capacity(fd);
            return 0;
        }
    }
    return libc.ioctl(fd, request, argument);
}
