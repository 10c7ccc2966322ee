/* Declared by us, for the compiler only: names of this header of macOS, which others may include. */
#ifndef STUB_SYS_SOCKET_H
#define STUB_SYS_SOCKET_H

#include <sys/types.h>

struct sockaddr;
struct msghdr;
typedef uint32_t socklen_t;

int accept(int socket, struct sockaddr *address, socklen_t *bytes);
int bind(int socket, const struct sockaddr *address, socklen_t bytes);
int connect(int socket, const struct sockaddr *address, socklen_t bytes);
int listen(int socket, int backlog);
ssize_t recv(int socket, void *buffer, size_t bytes, int flags);
ssize_t send(int socket, const void *buffer, size_t bytes, int flags);
ssize_t sendmsg(int socket, const struct msghdr *message, int flags);
int shutdown(int socket, int how);
int socket(int domain, int type, int protocol);

#endif
