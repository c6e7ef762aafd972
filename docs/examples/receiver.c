#define _GNU_SOURCE
#include "receiver.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

enum { TLS = 282, SET_RECORD_TYPE = 1, GET_RECORD_TYPE = 2 }; /* linux/tls.h, SOL_TLS */
enum { ALERT = 21, DATA = 23 };
enum { CLOSE_NOTIFY = 0, UNEXPECTED_MESSAGE = 10, INTERNAL_ERROR = 80, USER_CANCELED = 90 };
enum { HEAD = 16, MAX_MESSAGE = 200000, MAX_USELESS = 512 };

int passed_listen(const char *path) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof name.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(name.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    unlink(path);
    if (bind(fd, (struct sockaddr *)&name, sizeof name) == 0 && listen(fd, 1024) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Copy a text; one that is too long, or no text, is left out: cut it would be another one. */
static void copy(char *to, size_t room, const uint8_t *from, size_t size) {
    if (size >= room)
        return;
    for (size_t at = 0; at < size; at++)
        if (from[at] < ' ' || from[at] == 127)
            return;
    memcpy(to, from, size);
    to[size] = 0;
}

/* Read the fields from a type on, of which those of type 0x20 have fields inside. */
static int fields(struct passed *one, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 3 || end - at - 3 < (at[1] << 8 | at[2]))
            return -1;
        size_t size = at[1] << 8 | at[2];
        const uint8_t *value = at + 3;
        switch (*at) {
        case 0x01: copy(one->alpn, sizeof one->alpn, value, size); break;
        case 0x02: copy(one->server_name, sizeof one->server_name, value, size); break;
        case 0x20:
            if (size < 5 || fields(one, value + 5, value + size) < 0)
                return -1;
            break;
        case 0x21: copy(one->version, sizeof one->version, value, size); break;
        case 0x23: copy(one->suite, sizeof one->suite, value, size); break;
        case 0xe4: copy(one->certificate_hash, sizeof one->certificate_hash, value, size); break;
        case 0xe5: copy(one->subject, sizeof one->subject, value, size); break;
        case 0xe6: copy(one->offload, sizeof one->offload, value, size); break;
        case 0xe7: copy(one->reason, sizeof one->reason, value, size); break;
        }
        at = value + size;
    }
    return 0;
}

static void address(struct sockaddr_storage *to, int family, const uint8_t *ip, const uint8_t *port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (family == 0x11) {
        memcpy(&v4.sin_addr, ip, 4);
        memcpy(&v4.sin_port, port, 2);
        memcpy(to, &v4, sizeof v4);
    } else if (family == 0x21) {
        memcpy(&v6.sin6_addr, ip, 16);
        memcpy(&v6.sin6_port, port, 2);
        memcpy(to, &v6, sizeof v6);
    }
}

static int header(struct passed *one, const uint8_t *raw, size_t size) {
    if (size < HEAD || memcmp(raw, "\r\n\r\n\0\r\nQUIT\n", 12) != 0 || raw[12] != 0x21)
        return -1;
    size_t length = raw[14] << 8 | raw[15], ip = raw[13] == 0x11 ? 4 : 16;
    size_t ends = raw[13] == 0x31 ? 216 : raw[13] ? 2 * ip + 4 : 0;
    const uint8_t *body = raw + HEAD;
    if (size - HEAD < length || length < ends)
        return -1;
    address(&one->peer, raw[13], body, body + 2 * ip);
    address(&one->local, raw[13], body + ip, body + 2 * ip + 2);
    one->is_itself = size > HEAD + length; /* the session's state follows */
    return fields(one, body + ends, body + length);
}

/* Tell whether the sender has given up, and has ended the connection both ways. */
static int is_too_late(int channel, int fd) {
    struct pollfd ends[] = {{.fd = channel}, {.fd = fd}}; /* POLLHUP is told unasked */
    return poll(ends, 2, 0) == 2 && ends[0].revents & ends[1].revents & POLLHUP;
}

int passed_accept(int listener, struct passed *one) {
    static uint8_t raw[MAX_MESSAGE];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {raw, sizeof raw};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    memset(one, 0, sizeof *one);
    one->fd = -1;
    int channel = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (channel < 0)
        return -1;
    ssize_t size = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *found = size > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (found != NULL && found->cmsg_type == SCM_RIGHTS && found->cmsg_len >= CMSG_LEN(sizeof(int)))
        memcpy(&one->fd, CMSG_DATA(found), sizeof(int));
    int cut = message.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
    int good = one->fd >= 0 && !cut && header(one, raw, size) == 0;
    if (size > 0)
        explicit_bzero(raw, size); /* the traffic secrets are in it */
    int late = good && is_too_late(channel, one->fd);
    if (!good || late) {
        if (!late && send(channel, "", 1, MSG_NOSIGNAL) < 0) /* it is still the sender's */
            perror("send");
        if (one->fd >= 0)
            close(one->fd);
        close(channel);
        errno = late ? ECONNABORTED : EPROTO;
        return -1;
    }
    close(channel); /* it is ours */
    return 0;
}

/* Send a control record: an alert. */
static void alert(struct passed *one, uint8_t level, uint8_t description) {
    uint8_t payload[] = {level, description};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(1)];
    } control = {.head = {CMSG_LEN(1), TLS, SET_RECORD_TYPE}};
    struct iovec part = {payload, sizeof payload};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    *CMSG_DATA(&control.head) = ALERT;
    if (sendmsg(one->fd, &message, MSG_NOSIGNAL) < 0)
        return; /* nobody is there to hear it */
}

ssize_t passed_read(struct passed *one, void *data, size_t size) {
    if (!one->is_itself)
        return read(one->fd, data, size);
    if (one->is_closed)
        return 0;
    for (int useless = 0; useless < MAX_USELESS; useless++) {
        union {
            struct cmsghdr head;
            char room[CMSG_SPACE(1)];
        } control;
        uint8_t payload[2];
        struct iovec part = {data, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        ssize_t got = recvmsg(one->fd, &message, 0);
        struct cmsghdr *found = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
        if (got < 0)
            return -1;
        if (found == NULL) { /* an end without close_notify: somebody has cut the stream */
            errno = ECONNABORTED;
            return -1;
        }
        uint8_t type = *CMSG_DATA(found);
        if (type == DATA && got > 0)
            return got;
        if (type == DATA)
            continue;
        memcpy(payload, data, got < 2 ? got : 2);
        if (type == ALERT && got == 2 && payload[1] == CLOSE_NOTIFY) {
            one->is_closed = 1;
            return 0;
        }
        if (type == ALERT && got == 2 && payload[1] == USER_CANCELED)
            continue;
        if (type != ALERT) /* a KeyUpdate: tlsify's own receiver could follow it */
            alert(one, 2, INTERNAL_ERROR);
        errno = ECONNRESET;
        return -1;
    }
    alert(one, 2, UNEXPECTED_MESSAGE);
    errno = ECONNRESET;
    return -1;
}

void passed_close(struct passed *one) {
    if (one->is_itself)
        alert(one, 1, CLOSE_NOTIFY);
    shutdown(one->fd, SHUT_WR);
    close(one->fd);
}
