/*
 * One initiator that keeps a number of commands under way at a target, for a while.
 *
 * Usage: iscsi_load URL OPERATION BYTES DEPTH SECONDS
 *   OPERATION  read | write   commands of BYTES at random places of the disk
 *              keys           PERSISTENT RESERVE IN, READ KEYS
 *              register       PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY,
 *                             each time with another key
 *
 * Prints the number of commands, the seconds that they took, and the median and the 99th
 * percentile of their times in microseconds. Exits with 1 when a command is not answered GOOD.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum operation { READ, WRITE, KEYS, REGISTER };

enum { KEYS_LENGTH = 8192, LIST_LENGTH = 24, FIRST_ATTENTIONS = 16 };

struct load {
    struct iscsi_context *iscsi;
    int lun;
    enum operation operation;
    uint32_t bytes, block, blocks; /* of a command; of a block; in a command */
    uint64_t places;               /* where a command may begin, in commands */
    uint64_t random;
    double until;
    unsigned under_way;
    uint32_t *times; /* microseconds */
    size_t done, room;
};

/* One place for a command under way. */
struct slot {
    struct load *load;
    double begun;
    unsigned char *buffer;
};

static void fail(struct load *load, const char *what)
{
    fprintf(stderr, "iscsi_load: %s: %s\n", what, load->iscsi ? iscsi_get_error(load->iscsi) : "");
    exit(1);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* xorshift64: places that no cache foresees, the same in every run. */
static uint64_t draw(struct load *load)
{
    load->random ^= load->random << 13;
    load->random ^= load->random >> 7;
    load->random ^= load->random << 17;
    return load->random;
}

static struct scsi_task *prepare(struct slot *slot)
{
    struct load *load = slot->load;
    unsigned char cdb[16] = {0};
    uint32_t place = (uint32_t)(draw(load) % load->places * load->blocks);

    switch (load->operation) {
    case READ:
        return scsi_cdb_read10(place, load->bytes, (int)load->block, 0, 0, 0, 0, 0);
    case WRITE:
        return scsi_cdb_write10(place, load->bytes, (int)load->block, 0, 0, 0, 0, 0);
    case KEYS:
        cdb[0] = 0x5e;
        cdb[7] = KEYS_LENGTH >> 8;
        return scsi_create_task(10, cdb, SCSI_XFER_READ, KEYS_LENGTH);
    default:
        cdb[0] = 0x5f;
        cdb[1] = 0x06;
        cdb[8] = LIST_LENGTH;
        memset(slot->buffer, 0, LIST_LENGTH);
        for (int byte = 8; byte < 16; byte++) /* SERVICE ACTION RESERVATION KEY */
            slot->buffer[byte] = (unsigned char)(draw(load) | 1);
        return scsi_create_task(10, cdb, SCSI_XFER_WRITE, LIST_LENGTH);
    }
}

static void submit(struct slot *slot);

static void answered(struct iscsi_context *iscsi, int status, void *data, void *opaque)
{
    struct slot *slot = opaque;
    struct load *load = slot->load;
    double end = now();

    (void)iscsi;
    load->under_way--;
    if (status != SCSI_STATUS_GOOD)
        fail(load, "not GOOD");
    scsi_free_scsi_task(data);
    if (load->done == load->room) {
        load->room = load->room ? load->room * 2 : 1 << 16;
        load->times = realloc(load->times, load->room * sizeof *load->times);
        if (!load->times)
            fail(load, "no memory");
    }
    load->times[load->done++] = (uint32_t)((end - slot->begun) * 1e6);
    if (end < load->until)
        submit(slot);
}

static void submit(struct slot *slot)
{
    struct load *load = slot->load;
    struct scsi_task *task = prepare(slot);
    int writes = load->operation == WRITE || load->operation == REGISTER;
    uint32_t length = load->operation == REGISTER ? LIST_LENGTH : load->bytes;

    if (!task)
        fail(load, "no task");
    /* Data In goes where it is wanted, without a copy on our side. */
    if (writes ? scsi_task_add_data_out_buffer(task, (int)length, slot->buffer)
               : load->operation == READ && scsi_task_add_data_in_buffer(task, (int)length, slot->buffer))
        fail(load, "no buffer");
    slot->begun = now();
    if (iscsi_scsi_command_async(load->iscsi, load->lun, task, answered, NULL, slot))
        fail(load, "cannot send");
    load->under_way++;
}

static void log_in(struct load *load, const char *text)
{
    struct iscsi_url *url;
    struct scsi_task *task;
    struct scsi_readcapacity10 *capacity;

    load->iscsi = iscsi_create_context("iqn.2026-01.test:load");
    if (!load->iscsi)
        fail(load, "no context");
    url = iscsi_parse_full_url(load->iscsi, text);
    if (!url)
        fail(load, text);
    load->lun = url->lun;
    iscsi_set_targetname(load->iscsi, url->target);
    iscsi_set_session_type(load->iscsi, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(load->iscsi, ISCSI_HEADER_DIGEST_NONE);
    iscsi_set_noautoreconnect(load->iscsi, 1);
    if (iscsi_full_connect_sync(load->iscsi, url->portal, url->lun))
        fail(load, "cannot log in");
    iscsi_destroy_url(url);
    for (int attempt = 0;; attempt++) { /* what the unit has to report comes first */
        task = iscsi_testunitready_sync(load->iscsi, load->lun);
        if (task && task->status == SCSI_STATUS_GOOD)
            break;
        if (!task || attempt == FIRST_ATTENTIONS)
            fail(load, "not ready");
        scsi_free_scsi_task(task);
    }
    scsi_free_scsi_task(task);
    task = iscsi_readcapacity10_sync(load->iscsi, load->lun, 0, 0);
    capacity = task ? scsi_datain_unmarshall(task) : NULL;
    if (!capacity || task->status != SCSI_STATUS_GOOD)
        fail(load, "no capacity");
    load->block = capacity->block_size;
    load->blocks = load->bytes / load->block;
    if (load->operation == READ || load->operation == WRITE) {
        load->places = load->blocks ? ((uint64_t)capacity->lba + 1) / load->blocks : 0;
        if (!load->places)
            fail(load, "BYTES does not fit the disk");
    }
    scsi_free_scsi_task(task);
}

static int by_size(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

    return (a > b) - (a < b);
}

int main(int count, char **arguments)
{
    static const char *const names[] = {"read", "write", "keys", "register"};
    struct load load = {.operation = (enum operation)-1, .random = 0x9e3779b97f4a7c15, .places = 1};
    double begun, seconds;
    int depth;

    if (count != 6) {
        fprintf(stderr, "usage: iscsi_load URL OPERATION BYTES DEPTH SECONDS\n");
        return 2;
    }
    for (unsigned number = 0; number < 4; number++)
        if (!strcmp(arguments[2], names[number]))
            load.operation = (enum operation)number;
    load.bytes = (uint32_t)atoi(arguments[3]);
    depth = atoi(arguments[4]);
    if ((int)load.operation < 0 || depth < 1)
        return 2;
    log_in(&load, arguments[1]);
    begun = now();
    load.until = begun + atof(arguments[5]);
    for (int number = 0; number < depth; number++) {
        struct slot *slot = calloc(1, sizeof *slot);

        if (!slot || !(slot->buffer = malloc(load.bytes + LIST_LENGTH)))
            fail(&load, "no memory");
        memset(slot->buffer, 'a' + number % 26, load.bytes);
        slot->load = &load;
        submit(slot);
    }
    while (load.under_way) {
        struct pollfd poller = {.fd = iscsi_get_fd(load.iscsi),
                                .events = (short)iscsi_which_events(load.iscsi)};

        if (poll(&poller, 1, 30000) <= 0)
            fail(&load, "no answer in 30 s");
        if (iscsi_service(load.iscsi, poller.revents))
            fail(&load, "connection lost");
    }
    seconds = now() - begun;
    iscsi_logout_sync(load.iscsi);
    iscsi_destroy_context(load.iscsi);
    qsort(load.times, load.done, sizeof *load.times, by_size);
    printf("%zu %.6f %" PRIu32 " %" PRIu32 "\n", load.done, seconds, load.times[load.done / 2],
           load.times[load.done * 99 / 100]);
    return 0;
}
