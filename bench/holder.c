// Holds as many streams as a process has descriptors for, and does nothing else: one epoll loop, a few hundred bytes
// a connection. It speaks just enough HTTP/1.1, server-sent events and WebSocket to count frames, to say when each
// fan heard something, and to come back as a browser would. bench/holder.ts compiles it, starts it and reads it.
//
//   holder --port P --prefix TEXT [--lines FILE | --fans N] [--mode sse|ws|socketio] [--source INDEX]
//          [--reconnect no|now|retry] [--linger MS] [--first] [--inflight N]
//
// A request is the prefix, the fan's own line of the file (a cookie) and an empty line. On standard input:
//   open N   keep N streams open, the next fans in the order of the file    close   close all, begin with the first
//   count    say the counters now                                          late    say how late positions came, anew
// On standard output a JSON line for each second, for each answer, and for what concerns one fan: `promoted`, `ended`,
// a `state` other than waiting, and with --first the first event on every connection that is
// not a `state`.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 440, EVENTS = 1024, LATE_MAX = 60000, TYPE_BYTES = 12 };
enum phase { IDLE, CONNECTING, HEAD, OPEN, RESTING, DONE };
enum chunk { CHUNK_SIZE, CHUNK_DATA, CHUNK_END };

struct fan {
  int fd;
  uint8_t phase, chunked, chunk_at, tries, is_first, is_told, head_line;
  int status;
  int retry_ms;
  uint32_t left; // of the chunk, or of the payload of a WebSocket frame
  uint16_t length;
  uint8_t opcode, header_bytes, header_wanted;
  uint8_t header[10];
  double wake_ms; // when it comes back, or when it goes after its turn
  double due_ms;  // when the last position promised the next
  char type[TYPE_BYTES];
  char line[LINE_MAX_BYTES];
};

static struct fan *fans;
static char **lines;
static int fans_total, next_fan, wanted, held, handshakes, open_now, settled, epoll;
static int inflight = 256, linger_ms = -1, says_first, source;
static enum { NO, NOW, RETRY } reconnects = NO;
static enum { SSE, WS, SOCKETIO } mode = SSE;
static uint64_t frames, bytes, losses, refusals, faults, connects, refused_by[600];
static uint32_t late[LATE_MAX + 1];
static struct sockaddr_in target;
static const char *prefix = "";
static int is_settled_said;

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double chance(void) { return random() / (RAND_MAX + 1.0); }

static void say(const char *form, ...) {
  va_list more;
  va_start(more, form);
  vprintf(form, more);
  va_end(more);
  putchar('\n');
}

static void say_counters(const char *kind) {
  printf("{\"kind\":\"%s\",\"atMs\":%.1f,\"open\":%d,\"settled\":%d,\"opened\":%d,\"frames\":%llu,\"bytes\":%llu,"
         "\"connects\":%llu,\"losses\":%llu,\"faults\":%llu,\"refusals\":%llu,\"refusedBy\":{",
         kind, now_ms(), open_now, settled, next_fan, (unsigned long long)frames, (unsigned long long)bytes,
         (unsigned long long)connects, (unsigned long long)losses, (unsigned long long)faults,
         (unsigned long long)refusals);
  const char *comma = "";
  for (int status = 0; status < 600; status++)
    if (refused_by[status] > 0) {
      printf("%s\"%d\":%llu", comma, status, (unsigned long long)refused_by[status]);
      comma = ",";
    }
  puts("}}");
  fflush(stdout);
}

static void say_late(void) {
  const char *comma = "";
  printf("{\"kind\":\"late\",\"counts\":[");
  for (int ms = 0; ms <= LATE_MAX; ms++)
    if (late[ms] > 0) {
      printf("%s[%d,%u]", comma, ms, late[ms]);
      comma = ",";
    }
  puts("]}");
  fflush(stdout);
  memset(late, 0, sizeof late);
}

// Closing. Whoever is DONE never comes back and makes room for the next fan.

static void shut(struct fan *fan) {
  if (fan->fd >= 0) close(fan->fd);
  fan->fd = -1;
  if (fan->phase == CONNECTING || fan->phase == HEAD) handshakes--;
  if (fan->phase == OPEN) {
    open_now--;
    if (fan->is_first) settled--;
  }
}

static void finish(struct fan *fan) {
  shut(fan);
  if (fan->phase != DONE && fan->phase != IDLE) held--;
  fan->phase = DONE;
}

/** The stream was lost or refused: an EventSource waits what `retry` said; a refused one backs off with full jitter. */
static void lose(struct fan *fan, int was_refused) {
  enum phase before = fan->phase;
  shut(fan);
  if (reconnects == NO || (linger_ms >= 0 && fan->is_told)) {
    if (before != DONE && before != IDLE) held--;
    fan->phase = DONE;
    return;
  }
  double wait = 0;
  if (was_refused) {
    int power = fan->tries < 5 ? fan->tries : 5;
    double most = 500.0 * (1 << power);
    wait = chance() * (most < 10000 ? most : 10000);
    if (fan->tries < 20) fan->tries++;
  } else if (reconnects == RETRY)
    wait = fan->retry_ms > 0 ? fan->retry_ms : chance() * 3000;
  fan->phase = RESTING;
  fan->wake_ms = now_ms() + wait;
}

// Opening

static void watch(struct fan *fan, uint32_t what, int how) {
  struct epoll_event event = {.events = what, .data.u32 = (uint32_t)(fan - fans)};
  epoll_ctl(epoll, how, fan->fd, &event);
}

static void start(struct fan *fan) {
  int index = (int)(fan - fans) + source;
  // Every address of 127.0.0.0/8 is this machine: each fan has one of its own.
  uint32_t address = (127u << 24) | ((1u + index / 64516 % 200) << 16) | ((index / 254 % 254 + 0u) << 8) | (1u + index % 254);
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
  int on = 1;
  fan->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fan->fd < 0) {
    say("{\"kind\":\"fault\",\"says\":\"socket: %s\"}", strerror(errno));
    fflush(stdout);
    exit(1);
  }
  setsockopt(fan->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  setsockopt(fan->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fan->phase = CONNECTING;
  fan->is_first = fan->status = fan->chunked = fan->chunk_at = fan->head_line = 0;
  fan->left = fan->length = 0;
  fan->header_bytes = 0;
  fan->header_wanted = 2;
  fan->due_ms = 0;
  fan->type[0] = 0;
  handshakes++;
  if (bind(fan->fd, (struct sockaddr *)&from, sizeof from) < 0 ||
      (connect(fan->fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)) {
    faults++;
    lose(fan, 1);
    return;
  }
  watch(fan, EPOLLOUT, EPOLL_CTL_ADD);
}

static void send_text(struct fan *fan, int opcode, const char *text, size_t length) {
  uint8_t frame[160];
  if (length > 125) length = 125;
  frame[0] = (uint8_t)(0x80 | opcode);
  frame[1] = (uint8_t)(0x80 | length); // a mask of zeroes is a mask
  memset(frame + 2, 0, 4);
  memcpy(frame + 6, text, length);
  if (send(fan->fd, frame, length + 6, MSG_NOSIGNAL) < 0) faults++;
}

static void connected(struct fan *fan) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(fan->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    faults++;
    lose(fan, 1);
    return;
  }
  char head[4096];
  int length = snprintf(head, sizeof head, "%s%s%s\r\n", prefix, lines ? lines[fan - fans] : "", lines ? "\r\n" : "");
  if (length >= (int)sizeof head || send(fan->fd, head, (size_t)length, MSG_NOSIGNAL) != length) {
    faults++;
    lose(fan, 1);
    return;
  }
  fan->phase = HEAD;
  watch(fan, EPOLLIN | EPOLLRDHUP, EPOLL_CTL_MOD);
}

// What arrives

static long number_after(const char *text, const char *name, long otherwise) {
  const char *at = strstr(text, name);
  return at == NULL ? otherwise : atol(at + strlen(name));
}

static void text_after(const char *text, const char *name, char *into, size_t size) {
  const char *at = strstr(text, name);
  size_t length = 0;
  if (at != NULL)
    for (at += strlen(name); *at != 0 && *at != '"' && length + 1 < size; at++) into[length++] = *at;
  into[length] = 0;
}

/** One event of ours; other servers send types this does not know, and those are only counted. */
static void event(struct fan *fan, const char *type, const char *data) {
  int index = (int)(fan - fans);
  double at = now_ms();
  frames++;
  int is_position = strcmp(type, "position") == 0;
  // Who wants to see the first of each wants a position: what comes before it says only that the stream is open.
  if (!fan->is_first && !(says_first && strcmp(type, "state") == 0)) {
    fan->is_first = 1;
    fan->tries = 0;
    settled++;
    if (says_first)
      say("{\"kind\":\"first\",\"fan\":%d,\"event\":\"%.11s\",\"position\":%ld,\"atMs\":%.1f}", index, type,
          number_after(data, "\"position\":", -1), at);
  }
  if (is_position) {
    if (fan->due_ms > 0) {
      double ms = at - fan->due_ms;
      late[ms < 0 ? 0 : ms > LATE_MAX ? LATE_MAX : (int)ms]++;
    }
    long next = number_after(data, "\"nextMs\":", 0);
    fan->due_ms = next > 0 ? at + next : 0;
    return;
  }
  if (strcmp(type, "promoted") == 0) {
    say("{\"kind\":\"promoted\",\"fan\":%d,\"number\":%ld,\"atMs\":%.1f}", index,
        number_after(data, "\"number\":", -1), at);
    fan->due_ms = 0;
    if (linger_ms >= 0 && !fan->is_told) fan->wake_ms = at + linger_ms;
    fan->is_told = 1;
  } else if (strcmp(type, "ended") == 0) {
    char reason[24];
    text_after(data, "\"reason\":\"", reason, sizeof reason);
    say("{\"kind\":\"ended\",\"fan\":%d,\"reason\":\"%s\",\"atMs\":%.1f}", index, reason, at);
  } else if (strcmp(type, "state") == 0) {
    char is[24];
    text_after(data, "\"state\":\"", is, sizeof is);
    fan->due_ms = 0;
    if (strcmp(is, "waiting") != 0) say("{\"kind\":\"state\",\"fan\":%d,\"is\":\"%s\",\"atMs\":%.1f}", index, is, at);
  }
}

/** A line of an event stream without its end. */
static void stream_line(struct fan *fan) {
  char *line = fan->line;
  line[fan->length] = 0;
  if (fan->length == 0) {
    if (fan->type[0] != 0) event(fan, fan->type, fan->line + 1);
    fan->type[0] = 0;
    return;
  }
  if (strncmp(line, "event:", 6) == 0) {
    const char *at = line + 6 + (line[6] == ' ');
    snprintf(fan->type, sizeof fan->type, "%.11s", at);
  } else if (strncmp(line, "data:", 5) == 0) {
    if (fan->type[0] == 0) strcpy(fan->type, "message");
    // Kept behind the byte that an empty line writes, until that comes.
    memmove(line + 1, line + 5, (size_t)fan->length - 4);
    return;
  } else if (strncmp(line, "retry:", 6) == 0)
    fan->retry_ms = atoi(line + 6);
}

static void opened(struct fan *fan) {
  fan->phase = OPEN;
  handshakes--;
  open_now++;
  connects++;
  fan->length = 0;
}

static void stream_byte(struct fan *fan, char byte) {
  if (byte == '\n') {
    stream_line(fan);
    fan->length = 0;
  } else if (byte != '\r' && fan->length < LINE_MAX_BYTES - 2) {
    // Data waits in the line's place: the next line begins only if it is not the empty one.
    fan->line[fan->length++] = byte;
  }
}

static int socket_frame(struct fan *fan) {
  char *text = fan->line;
  text[fan->length] = 0;
  switch (fan->opcode & 15) {
    case 8:
      return -1;
    case 9:
      send_text(fan, 10, text, fan->length);
      return 0;
    case 1:
    case 2:
      break;
    default:
      return 0;
  }
  if (mode == SOCKETIO) {
    if (text[0] == '0') send_text(fan, 1, "40", 2);
    else if (text[0] == '2') send_text(fan, 1, "3", 1);
    else if (text[0] == '4' && text[1] == '0') event(fan, "connect", "");
    else if (text[0] == '4' && text[1] == '2') event(fan, "message", "");
    return 0;
  }
  char type[TYPE_BYTES];
  text_after(text, "\"type\":\"", type, sizeof type);
  event(fan, type, text);
  return 0;
}

static int socket_byte(struct fan *fan, uint8_t byte) {
  if (fan->header_bytes < fan->header_wanted) {
    fan->header[fan->header_bytes++] = byte;
    if (fan->header_bytes == 2) {
      fan->opcode = fan->header[0];
      uint8_t size = fan->header[1] & 127;
      fan->header_wanted = size == 126 ? 4 : size == 127 ? 10 : 2;
    }
    if (fan->header_bytes < fan->header_wanted) return 0;
    fan->length = 0;
    uint32_t size = fan->header[1] & 127;
    if (size >= 126) {
      size = 0;
      for (int at = 2; at < fan->header_wanted; at++) size = size << 8 | fan->header[at];
    }
    fan->left = size;
  } else {
    if (fan->length < LINE_MAX_BYTES - 2) fan->line[fan->length++] = (char)byte;
    fan->left--;
  }
  if (fan->left > 0) return 0;
  fan->header_bytes = 0;
  fan->header_wanted = 2;
  return socket_frame(fan);
}

/** Answers -1 when the stream is over. */
static int body_byte(struct fan *fan, char byte) {
  if (mode != SSE) return socket_byte(fan, (uint8_t)byte);
  if (!fan->chunked) {
    stream_byte(fan, byte);
    return 0;
  }
  switch (fan->chunk_at) {
    case CHUNK_SIZE:
      if (byte == '\n') {
        if (fan->left == 0) return -1;
        fan->chunk_at = CHUNK_DATA;
      } else if (byte >= '0' && byte <= '9') fan->left = fan->left * 16 + (uint32_t)(byte - '0');
      else if ((byte | 32) >= 'a' && (byte | 32) <= 'f') fan->left = fan->left * 16 + (uint32_t)((byte | 32) - 'a' + 10);
      return 0;
    case CHUNK_DATA:
      stream_byte(fan, byte);
      if (--fan->left == 0) fan->chunk_at = CHUNK_END;
      return 0;
    default:
      if (byte == '\n') fan->chunk_at = CHUNK_SIZE;
      return 0;
  }
}

/** Answers -1 when the answer is none of a stream, 1 when it says that there will be none. */
static int head_byte(struct fan *fan, char byte) {
  if (byte != '\n') {
    if (byte != '\r' && fan->length < LINE_MAX_BYTES - 2) fan->line[fan->length++] = byte;
    return 0;
  }
  fan->line[fan->length] = 0;
  if (fan->length == 0) {
    if (fan->status == 204) { // nothing more to say: an EventSource stays away
      say("{\"kind\":\"ended\",\"fan\":%d,\"reason\":\"204\",\"atMs\":%.1f}", (int)(fan - fans), now_ms());
      finish(fan);
      return 1;
    }
    if (fan->status != (mode == SSE ? 200 : 101)) {
      refusals++;
      refused_by[fan->status > 0 && fan->status < 600 ? fan->status : 0]++;
      return -1;
    }
    opened(fan);
    return 0;
  }
  if (fan->head_line++ == 0) fan->status = atoi(fan->line + 9);
  else if (strncasecmp(fan->line, "transfer-encoding:", 18) == 0 && strcasestr(fan->line, "chunked")) fan->chunked = 1;
  if (fan->head_line > 200) fan->head_line = 200;
  fan->length = 0;
  return 0;
}

static void readable(struct fan *fan) {
  static char data[65536];
  for (;;) {
    ssize_t got = recv(fan->fd, data, sizeof data, 0);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) {
      if (fan->phase == OPEN) losses++;
      else faults++;
      lose(fan, fan->phase != OPEN);
      return;
    }
    bytes += (uint64_t)got;
    for (ssize_t at = 0; at < got; at++) {
      enum phase before = fan->phase;
      int over = before == HEAD ? head_byte(fan, data[at]) : body_byte(fan, data[at]);
      if (over > 0) return;
      if (over < 0) {
        if (before == OPEN) losses++;
        lose(fan, before != OPEN);
        return;
      }
    }
    if (got < (ssize_t)sizeof data) return;
  }
}

// Who is to be open

static void tend(void) {
  double at = now_ms();
  for (int index = 0; index < next_fan; index++) {
    struct fan *fan = fans + index;
    if (fan->phase == RESTING && at >= fan->wake_ms && handshakes < inflight) start(fan);
    else if (fan->phase == OPEN && fan->is_told && linger_ms >= 0 && at >= fan->wake_ms) finish(fan);
  }
}

static void fill(void) {
  while (held < wanted && next_fan < fans_total && handshakes < inflight) {
    held++;
    start(fans + next_fan++);
  }
  int is_settled = held == wanted && settled == held && held > 0;
  if (is_settled && !is_settled_said) {
    say("{\"kind\":\"settled\",\"atMs\":%.1f,\"open\":%d}", now_ms(), open_now);
    fflush(stdout);
  }
  is_settled_said = is_settled;
}

static void order(const char *text) {
  if (strncmp(text, "open ", 5) == 0) {
    wanted = atoi(text + 5);
    is_settled_said = 0;
  } else if (strcmp(text, "close") == 0) {
    for (int index = 0; index < next_fan; index++) {
      finish(fans + index);
      fans[index].phase = IDLE;
      fans[index].is_told = fans[index].tries = 0;
      fans[index].retry_ms = 0;
    }
    wanted = held = next_fan = 0;
    say_counters("counters");
  } else if (strcmp(text, "count") == 0)
    say_counters("counters");
  else if (strcmp(text, "late") == 0)
    say_late();
}

/** Answers 0 when whoever gives orders is gone. */
static int orders(void) {
  static char rest[4096];
  static size_t length;
  ssize_t got = read(0, rest + length, sizeof rest - 1 - length);
  if (got <= 0) return got < 0 && errno == EAGAIN;
  length += (size_t)got;
  rest[length] = 0;
  char *from = rest;
  for (char *end; (end = strchr(from, '\n')) != NULL; from = end + 1) {
    *end = 0;
    order(from);
  }
  length = (size_t)(rest + length - from);
  memmove(rest, from, length);
  return 1;
}

static void read_lines(const char *path) {
  FILE *file = fopen(path, "r");
  size_t size = 0, room = 0;
  char *line = NULL;
  ssize_t length;
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  while ((length = getline(&line, &size, file)) > 0) {
    if (line[length - 1] == '\n') line[length - 1] = 0;
    if ((size_t)fans_total == room) {
      room = room == 0 ? 1024 : room * 2;
      lines = realloc(lines, room * sizeof *lines);
    }
    lines[fans_total++] = strdup(line);
  }
  free(line);
  fclose(file);
}

int main(int count, char **words) {
  target.sin_family = AF_INET;
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int at = 1; at < count; at++) {
    const char *name = words[at], *value = at + 1 < count ? words[at + 1] : "";
    if (strcmp(name, "--first") == 0) {
      says_first = 1;
      continue;
    }
    at++;
    if (strcmp(name, "--port") == 0) target.sin_port = htons((uint16_t)atoi(value));
    else if (strcmp(name, "--prefix") == 0) prefix = value;
    else if (strcmp(name, "--lines") == 0) read_lines(value);
    else if (strcmp(name, "--fans") == 0) fans_total = atoi(value);
    else if (strcmp(name, "--mode") == 0) mode = value[0] == 'w' ? WS : strcmp(value, "socketio") == 0 ? SOCKETIO : SSE;
    else if (strcmp(name, "--source") == 0) source = atoi(value);
    else if (strcmp(name, "--reconnect") == 0) reconnects = value[0] == 'r' ? RETRY : strcmp(value, "now") == 0 ? NOW : NO;
    else if (strcmp(name, "--linger") == 0) linger_ms = atoi(value);
    else if (strcmp(name, "--inflight") == 0) inflight = atoi(value);
    else {
      fprintf(stderr, "holder: %s is not an option\n", name);
      return 2;
    }
  }
  signal(SIGPIPE, SIG_IGN);
  srandom((unsigned)getpid());
  fans = calloc((size_t)fans_total, sizeof *fans);
  for (int index = 0; index < fans_total; index++) fans[index].fd = -1;
  epoll = epoll_create1(EPOLL_CLOEXEC);
  fcntl(0, F_SETFL, O_NONBLOCK);
  struct epoll_event stdin_event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
  epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &stdin_event);
  setvbuf(stdout, NULL, _IOFBF, 1 << 16);
  struct epoll_event events[EVENTS];
  double tended = 0, said = now_ms();
  for (;;) {
    int ready = epoll_wait(epoll, events, EVENTS, 20);
    for (int at = 0; at < ready; at++) {
      uint32_t index = events[at].data.u32;
      if (index == UINT32_MAX) {
        if (!orders()) return 0;
        continue;
      }
      struct fan *fan = fans + index;
      if (fan->fd < 0) continue;
      if (fan->phase == CONNECTING) connected(fan);
      else readable(fan);
    }
    double at = now_ms();
    if (at - tended >= 20) {
      tended = at;
      tend();
      fflush(stdout);
    }
    fill();
    if (at - said >= 1000) {
      said = at;
      say_counters("second");
    }
  }
}
