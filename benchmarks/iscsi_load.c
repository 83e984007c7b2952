/*
 * Initiators that keep a number of commands each under way at a target, for a while.
 *
 * Usage: iscsi_load URL OPERATION BYTES DEPTH SECONDS [INITIATORS]
 *   OPERATION  read | write   commands of BYTES at random places of the disk
 *              keys           PERSISTENT RESERVE IN, READ KEYS
 *              register       PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY,
 *                             each time with another key
 *   INITIATORS each with a name and a connection of its own; one without it
 *
 * Prints the number of commands, the seconds that they took, the median and the 99th percentile
 * of their times in microseconds, and how much of a core this program used; then 0, for none was
 * refused. Exits with 1 when a command is not answered GOOD.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum operation { READ, WRITE, KEYS, REGISTER };

enum { KEYS_LENGTH = 8192, LIST_LENGTH = 24, FIRST_ATTENTIONS = 16, MOST = 64 };

static uint32_t *times; /* microseconds, of all initiators */
static size_t done, room;

/* One initiator. */
struct load {
    struct iscsi_context *iscsi;
    int lun;
    enum operation operation;
    uint32_t bytes, block, blocks; /* of a command; of a block; in a command */
    uint64_t places;               /* where a command may begin, in commands */
    uint64_t random;
    double until;
    unsigned under_way;
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
    if (done == room) {
        room = room ? room * 2 : 1 << 16;
        times = realloc(times, room * sizeof *times);
        if (!times)
            fail(load, "no memory");
    }
    times[done++] = (uint32_t)((end - slot->begun) * 1e6);
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

static void log_in(struct load *load, const char *text, int number)
{
    char name[64];
    struct iscsi_url *url;
    struct scsi_task *task;
    struct scsi_readcapacity10 *capacity;

    snprintf(name, sizeof name, "iqn.2026-01.test:load%d", number);
    load->iscsi = iscsi_create_context(name);
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

static double processor(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Wait for answers until nothing is under way. */
static void run(struct load *loads, int initiators)
{
    struct pollfd pollers[MOST];

    for (;;) {
        unsigned under_way = 0;

        for (int number = 0; number < initiators; number++) {
            struct load *load = &loads[number];

            under_way += load->under_way;
            pollers[number] = (struct pollfd){
                .fd = load->under_way ? iscsi_get_fd(load->iscsi) : -1,
                .events = (short)iscsi_which_events(load->iscsi),
            };
        }
        if (!under_way)
            return;
        if (poll(pollers, (nfds_t)initiators, 30000) <= 0)
            fail(loads, "no answer in 30 s");
        for (int number = 0; number < initiators; number++)
            if (pollers[number].revents &&
                iscsi_service(loads[number].iscsi, pollers[number].revents))
                fail(&loads[number], "connection lost");
    }
}

int main(int count, char **arguments)
{
    static const char *const names[] = {"read", "write", "keys", "register"};
    static struct load loads[MOST];
    enum operation operation = (enum operation)-1;
    double begun, seconds, used;
    int depth, initiators;

    if (count != 6 && count != 7) {
        fprintf(stderr, "usage: iscsi_load URL OPERATION BYTES DEPTH SECONDS [INITIATORS]\n");
        return 2;
    }
    for (unsigned number = 0; number < 4; number++)
        if (!strcmp(arguments[2], names[number]))
            operation = (enum operation)number;
    depth = atoi(arguments[4]);
    initiators = count == 7 ? atoi(arguments[6]) : 1;
    if ((int)operation < 0 || depth < 1 || initiators < 1 || initiators > MOST)
        return 2;
    for (int number = 0; number < initiators; number++) {
        struct load *load = &loads[number];

        *load = (struct load){.operation = operation, .places = 1};
        load->random = 0x9e3779b97f4a7c15 * (2 * (uint64_t)number + 1);
        load->bytes = (uint32_t)atoi(arguments[3]);
        log_in(load, arguments[1], number);
    }
    used = processor();
    begun = now();
    for (int number = 0; number < initiators * depth; number++) {
        struct load *load = &loads[number % initiators];
        struct slot *slot = calloc(1, sizeof *slot);

        if (!slot || !(slot->buffer = malloc(load->bytes + LIST_LENGTH)))
            fail(load, "no memory");
        memset(slot->buffer, 'a' + number % 26, load->bytes);
        slot->load = load;
        load->until = begun + atof(arguments[5]);
        submit(slot);
    }
    run(loads, initiators);
    seconds = now() - begun;
    used = processor() - used;
    for (int number = 0; number < initiators; number++) {
        iscsi_logout_sync(loads[number].iscsi);
        iscsi_destroy_context(loads[number].iscsi);
    }
    qsort(times, done, sizeof *times, by_size);
    printf("%zu %.6f %" PRIu32 " %" PRIu32 " %.3f 0\n", done, seconds, times[done / 2],
           times[done * 99 / 100], used / seconds);
    return 0;
}
