/*
 * A number of guests at the sockets of a helper, each with one command under way, for a while.
 *
 * Usage: helper_load OPERATION CONNECTIONS SECONDS DEVICE SOCKET...
 *   OPERATION    keys | reservation   PERSISTENT RESERVE IN, READ KEYS or READ RESERVATION
 *                register             PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY,
 *                                     each time with another key
 *                reserve              RESERVE and RELEASE in turn, after one registration
 *   CONNECTIONS  spread over the sockets in turn
 *   DEVICE       opened for reading and writing; its descriptor goes with every command
 *
 * Prints the number of answers, the seconds that they took, the median and the 99th percentile
 * of their times in microseconds, how much of one core this program used, and how many answers
 * were not GOOD; then, on a line of its own, the answers that each connection got.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum operation { KEYS, RESERVATION, REGISTER, RESERVE };

enum { CDB = 16, LIST = 24, HEADER = 104, PAYLOAD = 8192 };

struct connection {
    int socket;
    unsigned number;
    uint64_t sent, answered;
    double begun;
    size_t have;
    unsigned char answer[HEADER + PAYLOAD];
};

static enum operation operation;
static int device;
static uint64_t *times; /* nanoseconds */
static size_t done, room, refused;

static void fail(const char *what)
{
    fprintf(stderr, "helper_load: %s: %s\n", what, strerror(errno));
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

static void put(unsigned char *place, uint64_t value)
{
    for (int byte = 7; byte >= 0; byte--, value >>= 8)
        place[byte] = (unsigned char)value;
}

/* The CDB with the descriptor, then the parameter list, in two messages as QEMU sends them. */
static void transmit(struct connection *guest, const unsigned char *cdb, const unsigned char *list)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = {{0}};
    struct iovec part = {(void *)cdb, CDB};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.room,
        .msg_controllen = sizeof control.room,
    };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof device);
    memcpy(CMSG_DATA(rights), &device, sizeof device);
    if (sendmsg(guest->socket, &message, MSG_NOSIGNAL) != CDB)
        fail("sendmsg");
    if (list && send(guest->socket, list, LIST, MSG_NOSIGNAL) != LIST)
        fail("send");
}

static void submit(struct connection *guest)
{
    unsigned char cdb[CDB] = {0}, list[LIST] = {0};
    uint64_t key = (uint64_t)(guest->number + 1) << 40;
    uint64_t count = guest->sent++;

    guest->have = 0;
    guest->begun = now();
    if (operation == KEYS || operation == RESERVATION) {
        cdb[0] = 0x5e;
        cdb[1] = operation == KEYS ? 0x00 : 0x01;
        cdb[7] = PAYLOAD >> 8;
        transmit(guest, cdb, NULL);
        return;
    }
    cdb[0] = 0x5f;
    cdb[8] = LIST;
    if (operation == REGISTER || !count) {
        cdb[1] = 0x06;
        /* Another key than the last of this run, and of a run before it. */
        put(list + 8, operation == REGISTER ? key + ((uint64_t)getpid() << 20) + count : key);
    } else {
        cdb[1] = count & 1 ? 0x01 : 0x02;
        cdb[2] = 0x01; /* Write Exclusive */
        put(list, key);
    }
    transmit(guest, cdb, list);
}

/* Take what has come; 1 when the answer is complete. */
static int receive(struct connection *guest)
{
    unsigned char *answer = guest->answer;
    ssize_t got = recv(guest->socket, answer + guest->have, sizeof guest->answer - guest->have, 0);
    size_t size = HEADER;

    if (got <= 0)
        fail(got ? "recv" : "the helper closed the connection");
    guest->have += (size_t)got;
    if (guest->have >= HEADER)
        size += (size_t)answer[6] << 8 | answer[7];
    return guest->have >= size;
}

static void note(struct connection *guest, double end)
{
    if (done == room) {
        room = room ? room * 2 : 1 << 16;
        times = realloc(times, room * sizeof *times);
        if (!times)
            fail("times");
    }
    times[done++] = (uint64_t)((end - guest->begun) * 1e9);
    guest->answered++;
    refused += guest->answer[3] != 0;
}

static void dial(struct connection *guest, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned char word[4];

    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    strcpy(address.sun_path, path);
    guest->socket = socket(AF_UNIX, SOCK_STREAM, 0);
    if (guest->socket < 0 || connect(guest->socket, (void *)&address, sizeof address))
        fail(path);
    if (recv(guest->socket, word, sizeof word, MSG_WAITALL) != sizeof word)
        fail("no greeting");
    memset(word, 0, sizeof word);
    if (send(guest->socket, word, sizeof word, MSG_NOSIGNAL) != sizeof word)
        fail("greeting");
}

static void prepare(struct connection *guest)
{
    /* Who it is and what it registered is found out with the first command, untimed. */
    submit(guest);
    while (!receive(guest))
        ;
}

static void one(struct connection *guest, double until)
{
    for (double end = 0; end < until;) {
        submit(guest);
        while (!receive(guest))
            ;
        end = now();
        note(guest, end);
    }
}

static void many(struct connection *guests, unsigned count, double until)
{
    int poller = epoll_create1(0);
    unsigned under_way = count;

    if (poller < 0)
        fail("epoll");
    for (unsigned number = 0; number < count; number++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &guests[number]};

        if (epoll_ctl(poller, EPOLL_CTL_ADD, guests[number].socket, &event))
            fail("epoll");
    }
    for (unsigned number = 0; number < count; number++)
        submit(&guests[number]);
    while (under_way) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, 60000);

        if (ready <= 0)
            fail("no answer in 60 s");
        for (int number = 0; number < ready; number++) {
            struct connection *guest = events[number].data.ptr;
            double end;

            if (!receive(guest))
                continue;
            end = now();
            note(guest, end);
            if (end < until)
                submit(guest);
            else
                under_way--;
        }
    }
    close(poller);
}

static int by_size(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

int main(int count, char **arguments)
{
    static const char *const names[] = {"keys", "reservation", "register", "reserve"};
    struct connection *guests;
    double begun, seconds, before;
    unsigned connections;
    int known = 0;

    if (count < 6) {
        fprintf(stderr, "usage: helper_load OPERATION CONNECTIONS SECONDS DEVICE SOCKET...\n");
        return 2;
    }
    for (unsigned number = 0; number < 4; number++)
        if (!strcmp(arguments[1], names[number])) {
            operation = (enum operation)number;
            known = 1;
        }
    connections = (unsigned)atoi(arguments[2]);
    if (!known || connections < 1)
        return 2;
    device = open(arguments[4], O_RDWR | O_CLOEXEC);
    if (device < 0)
        fail(arguments[4]);
    guests = calloc(connections, sizeof *guests);
    if (!guests)
        fail("connections");
    for (unsigned number = 0; number < connections; number++) {
        guests[number].number = number;
        dial(&guests[number], arguments[5 + (int)number % (count - 5)]);
        prepare(&guests[number]);
    }
    before = used();
    begun = now();
    if (connections == 1)
        one(guests, begun + atof(arguments[3]));
    else
        many(guests, connections, begun + atof(arguments[3]));
    seconds = now() - begun;
    before = used() - before;
    qsort(times, done, sizeof *times, by_size);
    printf("%zu %.6f %.3f %.3f %.3f %zu\n", done, seconds, (double)times[done / 2] / 1e3,
           (double)times[done * 99 / 100] / 1e3, before / seconds, refused);
    for (unsigned number = 0; number < connections; number++)
        printf("%llu ", (unsigned long long)guests[number].answered);
    printf("\n");
    return 0;
}
