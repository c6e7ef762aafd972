/* fetch HOST PORT CA: print the page "/" of an HTTPS server, with tlsify's help. */
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static int receive(int channel) { /* one byte and one descriptor, or -1 */
    union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec data = {.iov_base = &(char){0}, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    int found = -1;
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message))
        memcpy(&found, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof found);
    return found;
}

int main(int argc, char **argv) {
    int pair[2], status, tls;
    pid_t pid;
    char buffer[4096];
    ssize_t size;
    posix_spawn_file_actions_t actions;
    if (argc != 4 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) return 1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair[1], 0);
    char *words[] = {"tlsify", "connect", "--send-fd", "0", "--ca", argv[3], argv[1], argv[2], 0};
    if (posix_spawnp(&pid, *words, &actions, NULL, words, environ)) return 1;
    close(pair[1]); /* so that its end is ours, too */
    tls = receive(pair[0]);
    if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status)) return 1;
    if (tls < 0 || WEXITSTATUS(status)) return WEXITSTATUS(status); /* it has said why */
    dprintf(tls, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", argv[1]);
    while ((size = read(tls, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, (size_t)size, stdout);
    return size < 0 || fclose(stdout) ? 1 : 0;
}
