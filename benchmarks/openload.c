// A constant-rate load on one HTTP/1.1 route of this machine, over connections that are kept alive.
//
//   openload PORT PATH CONTENT_TYPE BODY_FILE RATE SECONDS CONNECTIONS PATIENCE RECORDS
//
// Request i is due at start + i / RATE whatever the server does. One that finds every connection busy waits here for
// a free one, and is given up PATIENCE seconds after it was due, sent or not. At the end of SECONDS nothing more is
// sent. The first line of output is the start (CLOCK_MONOTONIC, seconds); the last is one JSON object about this
// program itself. RECORDS gets one `record` per request, in the order in which they were due; what they mean is left
// to the reader. One thread; a connection is registered with epoll once, edge-triggered.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NEVER_SENT = 0, REFUSED = -1, BROKEN = -2, GAVE_UP = -3, IN_FLIGHT = -4 };
enum { NONE = -1, EVENTS = 256, ROOM = 16384 };

// A wake-up serves whatever became due meanwhile: without a shortest pause, high rates would cost a wake-up each.
static const double SHORTEST_PAUSE = 0.0002;

struct record {
    double due, sent, ended;  // CLOCK_MONOTONIC, seconds; sent is 0 if it never was
    int64_t status;           // the HTTP status, or one of the above
};

struct connection {
    int fd;           // NONE until it is needed, and after it broke
    int connected;
    int64_t request;  // what it waits for, or NONE
    size_t got;
    char answer[ROOM];
};

static struct record *records;
static struct connection *connections;
static int64_t *carrier;  // by request: the connection that carries it
static int *idle, idles;  // a stack, so that connections in use stay in use
static int64_t in_flight, oldest;
static int poller;
static char *message;
static size_t length;
static struct sockaddr_in address;

static void die(const char *why) {
    fprintf(stderr, "openload: %s\n", why);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void hang_up(struct connection *c) {
    close(c->fd);
    c->fd = NONE;
    c->connected = 0;
}

static void end(struct connection *c, int64_t status, int keep) {
    struct record *r = &records[c->request];
    r->ended = now();
    r->status = status;
    c->request = NONE;
    in_flight--;
    if (!keep) hang_up(c);
    idle[idles++] = (int)(c - connections);
}

static void transmit(struct connection *c) {
    // An idle connection's socket buffer takes a small request whole; one that does not is broken.
    if (send(c->fd, message, length, MSG_NOSIGNAL) != (ssize_t)length) end(c, BROKEN, 0);
}

static void begin(struct connection *c, int64_t request, double at) {
    c->request = request;
    c->got = 0;
    carrier[request] = c - connections;
    records[request].sent = at;
    records[request].status = IN_FLIGHT;
    in_flight++;
    if (c->fd != NONE) {
        transmit(c);
        return;
    }
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("no socket: are there enough file descriptors?");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)(c - connections)};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) end(c, REFUSED, 0);
}

// Whether the answer is whole; then *status and *keep say what it was.
static int whole(struct connection *c, int64_t *status, int *keep) {
    char *blank = memmem(c->answer, c->got, "\r\n\r\n", 4);
    if (!blank) return 0;
    long body = -1;
    *keep = 1;
    *status = c->got > 12 ? strtol(c->answer + 9, NULL, 10) : 0;
    for (char *line = memmem(c->answer, c->got, "\r\n", 2); line < blank; line = memmem(line, c->got, "\r\n", 2)) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) body = strtol(line + 15, NULL, 10);
        if (!strncasecmp(line, "connection: close", 17)) *keep = 0;
    }
    if (body < 0 || *status < 100) die("an answer without a status or a content-length");
    size_t need = (size_t)(blank + 4 - c->answer) + (size_t)body;
    if (need > ROOM) die("an answer that is too large");
    return c->got >= need;
}

static void receive(struct connection *c) {
    for (;;) {
        if (c->got == ROOM) die("an answer that is too large");
        ssize_t size = recv(c->fd, c->answer + c->got, ROOM - c->got, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) {
            if (c->request != NONE) end(c, BROKEN, 0);
            else hang_up(c);
            return;
        }
        if (c->request == NONE) die("an answer to nothing");
        c->got += (size_t)size;
        int64_t status;
        int keep;
        if (whole(c, &status, &keep)) {
            end(c, status, keep);
            if (!keep) return;
            c->got = 0;
        }
    }
}

static void react(struct epoll_event *event) {
    struct connection *c = &connections[event->data.u64];
    if (c->fd == NONE) return;  // it was hung up since
    if (!c->connected) {
        int fault = 0;
        socklen_t size = sizeof fault;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &fault, &size);
        if (fault) {
            end(c, fault == ECONNREFUSED ? REFUSED : BROKEN, 0);
            return;
        }
        if (!(event->events & EPOLLOUT)) return;
        c->connected = 1;
        transmit(c);
        if (c->fd == NONE) return;
    }
    if (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) receive(c);
}

static void compose(const char *path, const char *content_type, const char *file) {
    FILE *f = fopen(file, "rb");
    if (!f) die("no body file");
    char *body = malloc(ROOM);
    size_t size = fread(body, 1, ROOM, f);
    fclose(f);
    if (size == ROOM) die("a body that is too large");
    message = malloc(size + strlen(path) + strlen(content_type) + 256);
    length = (size_t)sprintf(message,
                             "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                             size ? "POST" : "GET", path, content_type, size);
    memcpy(message + length, body, size);
    length += size;
    free(body);
}

int main(int argc, char **argv) {
    if (argc != 10) die("nine arguments; see the source");
    double rate = atof(argv[5]), seconds = atof(argv[6]), patience = atof(argv[8]);
    int count = atoi(argv[7]);
    int64_t total = (int64_t)(rate * seconds);
    compose(argv[2], argv[3], argv[4]);
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    records = calloc((size_t)total + 1, sizeof *records);
    carrier = calloc((size_t)total + 1, sizeof *carrier);
    connections = calloc((size_t)count, sizeof *connections);
    idle = calloc((size_t)count, sizeof *idle);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!records || !carrier || !connections || !idle || poller < 0) die("no memory");
    for (int i = 0; i < count; i++) {
        connections[i].fd = NONE;
        connections[i].request = NONE;
        idle[idles++] = i;
    }

    double start = now() + 0.01, stop = start + seconds, late = 0, latest = 0;
    int64_t due = 0, next = 0, punctual = 0;
    printf("%.6f\n", start);
    fflush(stdout);
    for (;;) {
        double at = now();
        int64_t waiting_before = due;
        while (due < total && start + (double)due / rate <= at) {
            records[due].due = start + (double)due / rate;
            due++;
        }
        for (; next < due; next++) {
            struct record *r = &records[next];
            if (r->due + patience <= at || at >= stop) {
                r->ended = at;
                continue;
            }
            if (!idles) break;
            at = now();
            if (next >= waiting_before) {  // it waited for nothing but this program
                late += at - r->due;
                if (at - r->due > latest) latest = at - r->due;
                punctual++;
            }
            begin(&connections[idle[--idles]], next, at);
        }
        for (; oldest < next; oldest++) {  // in the order in which they were due, so the first that may wait ends it
            if (records[oldest].status != IN_FLIGHT) continue;
            if (records[oldest].due + patience > at) break;
            end(&connections[carrier[oldest]], GAVE_UP, 0);
        }
        if (at >= stop && due == total && next == due && !in_flight) break;

        double wake = at + 0.01;
        if (due < total && start + (double)due / rate < wake) wake = start + (double)due / rate;
        double pause = wake - now();
        if (pause < SHORTEST_PAUSE) pause = SHORTEST_PAUSE;
        struct timespec timeout = {0, (long)(pause * 1e9)};
        struct epoll_event events[EVENTS];
        int ready = epoll_pwait2(poller, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < ready; i++) react(&events[i]);
    }

    FILE *f = fopen(argv[9], "wb");
    if (!f || fwrite(records, sizeof *records, (size_t)total, f) != (size_t)total || fclose(f)) die("no records written");
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"cpu\": %.3f, \"late_mean\": %.6f, \"late_max\": %.6f}\n", cpu, punctual ? late / (double)punctual : 0, latest);
    return 0;
}
