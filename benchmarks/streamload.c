// A closed loop of streams on one route of this machine: every connection asks again when its reply has come.
//
//   streamload PORT PATH ws|sse DATA CHUNKS CONNECTIONS SECONDS
//
// DATA is the request's JSON. Over `ws` it goes out as the text frame {"id": "1", "data": DATA}, over `sse` as the body
// of a POST that accepts text/event-stream. CHUNKS is how many chunks have to come before the reply: any other number
// is a failed request, and so is a problem in the place of the reply. After SECONDS nothing more is asked, what was
// asked is waited for. Output is one JSON object; its times are in seconds, one for each request: until the first chunk
// was here (`first`; left out where there was none), and until the reply was (`whole`). They are exact where CHUNKS is
// 1, and late by a pause (GATHERING) where it is more.
//
// One thread. It compares nothing but the few bytes that tell a chunk from a reply, so that it costs less than what it
// measures. What a server could also send is not understood: fragments and masked frames of a WebSocket, a body that is
// not chunked. Pings are not answered, so that SECONDS may be 20 and no more (uvicorn pings then, and waits as long).

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 64, ROOM = 1 << 18, LONGEST_REQUEST = 2048, PATIENCE_MS = 60000 };
enum { TEXT = 0x81, SHORT_FRAME = 125, TWO_BYTES = 126, MASKED = 0x80 };  // RFC 6455, section 5.2

// Whoever sends to a reader that waits has to wake it. One that is back at its waiting after every chunk makes that a
// part of what each of them costs the server, and so where many come, they are left to gather.
static const struct timespec GATHERING = {0, 100000};

enum kind { CHUNK, REPLY, PROBLEM, OTHER };

struct protocol {
    const char *marks[3];                            // what a chunk, a reply and a problem are known by, in this order
    size_t (*whole)(const char *text, size_t size);  // bytes of the first message; 0: it is not all here
};

struct times {
    double *values;
    size_t count, room;
};

struct connection {
    int fd;
    double sent;
    int64_t chunks;  // of the request that it waits for
    size_t got;
    char buffer[ROOM];
};

static const struct protocol *protocol;
static char request[LONGEST_REQUEST];
static size_t length;
static double stop, ended;
static int64_t expected, chunks, bytes, failed;
static int asking;
static struct times firsts, wholes;

static void die(const char *why) {
    fprintf(stderr, "streamload: %s\n", why);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void note(struct times *times, double value) {
    if (times->count == times->room) {
        times->room = times->room ? 2 * times->room : 1024;
        times->values = realloc(times->values, times->room * sizeof *times->values);
        if (!times->values) die("no memory");
    }
    times->values[times->count++] = value;
}

static void print(const char *name, const struct times *times) {
    printf(", \"%s\": [", name);
    for (size_t i = 0; i < times->count; i++) printf("%s%.6f", i ? ", " : "", times->values[i]);
    printf("]");
}

// ---- messages

static size_t whole_frame(const char *text, size_t size) {
    const unsigned char *head = (const unsigned char *)text;
    if (size < 2) return 0;
    size_t long_by = head[1] < TWO_BYTES ? 0 : head[1] == TWO_BYTES ? 2 : 8, body = long_by ? 0 : head[1];
    if (size < 2 + long_by) return 0;
    for (size_t i = 0; i < long_by; i++) body = body << 8 | head[2 + i];
    if (2 + long_by + body > ROOM) die("a frame that is too large");
    return size >= 2 + long_by + body ? 2 + long_by + body : 0;
}

// An event ends with a blank line. What HTTP puts before it (the head of the answer, the lengths of its chunks) counts
// as part of it, and what HTTP puts behind the last one, too: an answer has to be at its end before the next is asked.
static size_t whole_event(const char *text, size_t size) {
    static const char last[] = "\r\n0\r\n\r\n";
    if (size >= 12 && !memcmp(text, "HTTP/1.1 ", 9) && memcmp(text + 9, "200", 3)) die("an answer that is not 200");
    const char *blank = memmem(text, size, "\n\n", 2);
    if (!blank) return 0;
    size_t here = (size_t)(blank + 2 - text);
    if (memmem(text, here, protocol->marks[CHUNK], strlen(protocol->marks[CHUNK]))) return here;
    if (!memmem(text, here, protocol->marks[REPLY], strlen(protocol->marks[REPLY])) &&
        !memmem(text, here, protocol->marks[PROBLEM], strlen(protocol->marks[PROBLEM])))
        return here;
    const char *end = memmem(blank, size - (here - 2), last, strlen(last));
    return end ? (size_t)(end - text) + strlen(last) : 0;
}

static const struct protocol frames = {
    {"\"event\":\"chunk\"", "\"event\":\"reply\"", "\"event\":\"problem\""}, whole_frame};
static const struct protocol events = {
    {"event: chunk\n", "event: reply\n", "event: problem\n"}, whole_event};

static enum kind kind_of(const char *text, size_t size) {
    for (int kind = CHUNK; kind < OTHER; kind++)
        if (memmem(text, size, protocol->marks[kind], strlen(protocol->marks[kind]))) return (enum kind)kind;
    return OTHER;
}

// ---- one connection

static void ask(struct connection *c) {
    c->chunks = 0;
    c->sent = now();
    // An idle connection's socket buffer takes a small request whole; one that does not is broken.
    if (send(c->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) die("a connection is broken");
}

static void hear(struct connection *c, enum kind kind, double at) {
    if (kind == CHUNK) {
        chunks++;
        if (!c->chunks++) note(&firsts, at - c->sent);
    } else if (kind == REPLY || kind == PROBLEM) {
        note(&wholes, at - c->sent);
        failed += kind == PROBLEM || c->chunks != expected;
        ended = at;
        if (at < stop) {
            ask(c);
            return;
        }
        close(c->fd);  // the server would, while others are still waited for
        asking--;
    }
}

static void receive(struct connection *c) {
    if (c->got == ROOM) die("a message that is too large");
    ssize_t size = recv(c->fd, c->buffer + c->got, ROOM - c->got, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) die("a connection was closed before its reply");
    double at = now();
    c->got += (size_t)size;
    bytes += size;
    size_t read = 0, message;
    while ((message = protocol->whole(c->buffer + read, c->got - read))) {
        hear(c, kind_of(c->buffer + read, message), at);
        read += message;
    }
    c->got -= read;
    memmove(c->buffer, c->buffer + read, c->got);
}

static void shake_hands(int fd, const char *path) {
    char said[LONGEST_REQUEST], heard[LONGEST_REQUEST];
    int size = snprintf(said, sizeof said,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n", path);
    if (send(fd, said, (size_t)size, MSG_NOSIGNAL) != size) die("a connection is broken");
    size_t got = 0;
    while (got < 4 || memcmp(heard + got - 4, "\r\n\r\n", 4)) {  // nothing follows: a server speaks when it is asked
        ssize_t more = recv(fd, heard + got, sizeof heard - got, 0);
        if (more <= 0) die("no handshake");
        got += (size_t)more;
    }
    if (memcmp(heard, "HTTP/1.1 101", 12)) die("a handshake was refused");
}

static int connected(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("no connection");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

// ---- what is asked

static void compose_frame(const char *data) {
    static const char key[4] = {0x1d, 0x6b, 0x2f, 0x53};  // a mask protects proxies, of which there is none here
    char text[SHORT_FRAME + 1];
    int size = snprintf(text, sizeof text, "{\"id\":\"1\",\"data\":%s}", data);
    if (size > SHORT_FRAME) die("a request that is too large");
    request[length++] = (char)TEXT;
    request[length++] = (char)(MASKED | size);
    for (int i = 0; i < 4; i++) request[length++] = key[i];
    for (int i = 0; i < size; i++) request[length++] = text[i] ^ key[i % 4];
}

static void compose_post(const char *path, const char *data) {
    int size = snprintf(request, sizeof request,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        path, strlen(data), data);
    if (size >= LONGEST_REQUEST) die("a request that is too large");
    length = (size_t)size;
}

int main(int argc, char **argv) {
    if (argc != 8) die("seven arguments; see the source");
    int sockets = !strcmp(argv[3], "ws"), count = atoi(argv[6]);
    protocol = sockets ? &frames : &events;
    if (sockets) compose_frame(argv[4]);
    else compose_post(argv[2], argv[4]);
    expected = atoll(argv[5]);
    struct connection *connections = calloc((size_t)count, sizeof *connections);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || poller < 0) die("no memory");
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[i];
        c->fd = connected((uint16_t)atoi(argv[1]));
        if (sockets) shake_hands(c->fd, argv[2]);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    }

    double began = now();
    stop = began + atof(argv[7]);
    for (; asking < count; asking++) ask(&connections[asking]);
    while (asking) {
        struct epoll_event ready[EVENTS];
        if (expected > 1) nanosleep(&GATHERING, NULL);
        int some = epoll_wait(poller, ready, EVENTS, PATIENCE_MS);
        if (some == 0) die("nothing came for a minute");
        for (int i = 0; i < some; i++) receive(ready[i].data.ptr);
    }

    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"seconds\": %.6f, \"cpu\": %.6f, \"chunks\": %lld, \"bytes\": %lld, \"failed\": %lld", ended - began, cpu,
           (long long)chunks, (long long)bytes, (long long)failed);
    print("first", &firsts);
    print("whole", &wholes);
    printf("}\n");
    return 0;
}
