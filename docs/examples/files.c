/* files SOCKET FOLDER: an HTTP server for the files of a folder, with sendfile(2), and without TLS.
 *
 * cc -o files files.c receiver.c
 * tlsify forward --cert cert.pem --key key.pem :443 --pass-fd unix:SOCKET --aware
 */
#define _GNU_SOURCE
#include "receiver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = write(fd, data, size);
        if (sent < 0)
            return -1;
        data += sent;
        size -= sent;
    }
    return 0;
}

static int answer(struct passed *one, const char *path) {
    char head[8192];
    struct stat about;
    int file = strstr(path, "..") ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) < 0 || !S_ISREG(about.st_mode)) {
        int size = sprintf(head, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        if (file >= 0)
            close(file);
        return write_all(one->fd, head, size);
    }
    /* What the header says of the client becomes fields of the answer, for the tests. */
    char ip[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &((struct sockaddr_in *)&one->peer)->sin_addr, ip, sizeof ip);
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\nX-Peer: %s\r\n"
                        "X-TLS: %s %s %s\r\nX-Name: %s\r\nX-Client: %s %s\r\n\r\n",
                        (long long)about.st_size, ip, one->version, one->suite, one->offload,
                        one->server_name, one->certificate_hash, one->subject);
    int failed = write_all(one->fd, head, size);
    off_t offset = 0;
    while (!failed && offset < about.st_size)
        failed = sendfile(one->fd, file, &offset, about.st_size - offset) <= 0;
    close(file);
    return failed;
}

static void serve(struct passed *one) {
    static char request[8192];
    size_t size = 0;
    for (;;) {
        if (size > sizeof request - 3)
            return; /* a longer request than anybody needs */
        ssize_t got = passed_read(one, request + size, sizeof request - 1 - size);
        if (got <= 0)
            return;
        size += got;
        request[size] = 0;
        char *end, path[4096];
        while ((end = strstr(request, "\r\n\r\n")) != NULL) {
            if (sscanf(request, "GET /%4000s HTTP/1.", path) != 1 || answer(one, path) != 0)
                return;
            size -= end + 4 - request;
            memmove(request, end + 4, size + 1);
        }
    }
}

int main(int count, char **words) {
    if (count != 3)
        return 100;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
    int listener = passed_listen(words[1]);
    if (listener < 0 || chdir(words[2]) < 0) {
        perror(words[1]);
        return 111;
    }
    for (;;) {
        struct passed one;
        if (passed_accept(listener, &one) < 0) {
            if (errno != EPROTO && errno != EINTR && errno != ECONNABORTED)
                sleep(1); /* no descriptors left: there will be */
            continue;
        }
        if (fork() == 0) {
            close(listener);
            serve(&one);
            passed_close(&one);
            _exit(0);
        }
        close(one.fd);
    }
}
