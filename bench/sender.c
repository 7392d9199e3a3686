// The floor of every stream bench: a server that only sends. It takes connections, answers each with the head of an
// event stream, and for each line on standard input sends the same frame to all of them, one send() after the other.
// Prints its port. Closed connections are noticed when sending to them fails.
//
//   sender FRAME

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FANS_MAX = 20000, EVENTS = 256 };
static int fans[FANS_MAX];
static int count;

static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\r\n";

static void send_all(const char *frame, size_t length) {
  for (int at = 0; at < count;) {
    // A full socket buffer loses a frame, as the fastest sender there is would; the holder counts what arrived.
    if (send(fans[at], frame, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN) {
      close(fans[at]);
      fans[at] = fans[--count];
    } else
      at++;
  }
}

int main(int words, char **word) {
  if (words != 2) return 2;
  signal(SIGPIPE, SIG_IGN);
  size_t length = strlen(word[1]);
  int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof at;
  if (bind(listener, (struct sockaddr *)&at, size) < 0 || listen(listener, 512) < 0) return 1;
  getsockname(listener, (struct sockaddr *)&at, &size);
  printf("%d\n", ntohs(at.sin_port));
  fflush(stdout);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = listener};
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = 0;
  epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
  char data[4096];
  for (;;) {
    int ready = epoll_wait(epoll, events, EVENTS, -1);
    for (int index = 0; index < ready; index++) {
      int fd = events[index].data.fd;
      if (fd == 0) {
        ssize_t got = read(0, data, sizeof data);
        if (got <= 0) return 0;
        for (ssize_t byte = 0; byte < got; byte++)
          if (data[byte] == '\n') send_all(word[1], length);
      } else if (fd == listener) {
        int fan;
        while ((fan = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
          setsockopt(fan, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
          event.data.fd = fan;
          epoll_ctl(epoll, EPOLL_CTL_ADD, fan, &event);
        }
      } else {
        // The only thing that comes is the request, in one piece from our own holder; after it nobody is listened to.
        epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
        if (recv(fd, data, sizeof data, 0) <= 0 || count == FANS_MAX) close(fd);
        else {
          send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL);
          send(fd, word[1], length, MSG_NOSIGNAL);
          fans[count++] = fd;
        }
      }
    }
  }
}
