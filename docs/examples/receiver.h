/* Connections that "tlsify forward --pass-fd unix:PATH" sends. docs/passing.md is the contract. */
#include <sys/socket.h>
#include <sys/types.h>

struct passed {
    int fd;        /* blocking; read it with passed_read, write it with anything */
    int is_itself; /* whether it is the connection itself, to be ended by passed_close */
    int is_closed; /* whether the client has ended in good order */
    struct sockaddr_storage peer, local; /* ss_family is 0 if unknown */
    /* Empty if there is none. */
    char server_name[256], alpn[256], version[16], suite[64], offload[16], reason[64];
    char subject[4096], certificate_hash[65];
};

/* Listen at a path; gives a descriptor, or -1 and errno. */
int passed_listen(const char *path);
/* Wait for a connection; 0, or -1 and errno. EPROTO: something else came, and was refused;
   ECONNABORTED: the sender had given it up. */
int passed_accept(int listener, struct passed *one);
/* Do as read(2), for 2 bytes at least; 0 is an end in good order, ECONNABORTED one that is none. */
ssize_t passed_read(struct passed *one, void *data, size_t size);
/* Tell the client that nothing more comes, and close. */
void passed_close(struct passed *one);
