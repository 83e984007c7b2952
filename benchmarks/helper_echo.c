/*
 * What a helper costs at the least: a thread for each connection that receives 16 bytes with a
 * descriptor, sends 112 bytes, and closes the descriptor.
 *
 * Usage: helper_echo SOCKET
 *
 * The answer reads as GOOD with 8 bytes of data, so that the same load client understands it.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CDB = 16, ANSWER = 112 };

static void *serve(void *opaque)
{
    int client = (int)(intptr_t)opaque;
    unsigned char cdb[CDB], answer[ANSWER] = {[7] = ANSWER - 104};
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec in = {cdb, sizeof cdb}, out = {answer, sizeof answer};
    struct msghdr reply = {.msg_iov = &out, .msg_iovlen = 1};

    if (send(client, answer, 4, MSG_NOSIGNAL) != 4 || recv(client, cdb, 4, MSG_WAITALL) != 4)
        goto end;
    for (;;) {
        struct msghdr message = {
            .msg_iov = &in,
            .msg_iovlen = 1,
            .msg_control = control.room,
            .msg_controllen = sizeof control.room,
        };
        struct cmsghdr *rights;
        int device;

        if (recvmsg(client, &message, MSG_CMSG_CLOEXEC) != CDB)
            break;
        rights = CMSG_FIRSTHDR(&message);
        if (!rights)
            break;
        memcpy(&device, CMSG_DATA(rights), sizeof device);
        if (sendmsg(client, &reply, MSG_NOSIGNAL) != ANSWER)
            break;
        close(device);
    }
end:
    close(client);
    return NULL;
}

int main(int count, char **arguments)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    if (count != 2 || strlen(arguments[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: helper_echo SOCKET\n");
        return 2;
    }
    strcpy(address.sun_path, arguments[1]);
    if (listener < 0 || bind(listener, (void *)&address, sizeof address) ||
        listen(listener, 1024)) {
        perror("helper_echo");
        return 1;
    }
    for (;;) {
        int client = accept(listener, NULL, NULL);
        pthread_t thread;

        if (client < 0)
            continue;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client))
            return 1;
        pthread_detach(thread);
    }
}
