/* Stands before open and read, by LD_PRELOAD: a disk or a network share that is slow or fails.
 *
 * FAILING_PATH   part of a path; only files whose path holds it are touched
 * FAILING_HOW    eio, estale, estale-open, slow (2 ms a read) or short (at most 777 bytes a read)
 * FAILING_AFTER  calls that go well before the first that fails
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define MOST 4096
#define SHORT 777

static char touched[MOST];
static int calls;

static int is_how(const char *word) {
    const char *how = getenv("FAILING_HOW");
    return how != NULL && strcmp(how, word) == 0;
}

static int is_ours(const char *path) {
    const char *part = getenv("FAILING_PATH");
    return part != NULL && path != NULL && strstr(path, part) != NULL;
}

static int is_due(void) {
    const char *after = getenv("FAILING_AFTER");
    return __sync_fetch_and_add(&calls, 1) >= (after == NULL ? 0 : atoi(after));
}

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < MOST) touched[fd] = (char)is_ours(path);
    return fd;
}

static int refused(const char *path) {
    if (is_ours(path) && is_how("estale-open") && is_due()) {
        errno = ESTALE;
        return 1;
    }
    return 0;
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        static int (*real)(const char *, int, ...);                       \
        mode_t mode = 0;                                                  \
        if (flags & (O_CREAT | O_TMPFILE)) {                              \
            va_list rest;                                                 \
            va_start(rest, flags);                                        \
            mode = va_arg(rest, mode_t);                                  \
            va_end(rest);                                                 \
        }                                                                 \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);                 \
        if (refused(path)) return -1;                                     \
        return opened(real(path, flags, mode), path);                     \
    }

#define OPENAT(name)                                                      \
    int name(int folder, const char *path, int flags, ...) {              \
        static int (*real)(int, const char *, int, ...);                  \
        mode_t mode = 0;                                                  \
        if (flags & (O_CREAT | O_TMPFILE)) {                              \
            va_list rest;                                                 \
            va_start(rest, flags);                                        \
            mode = va_arg(rest, mode_t);                                  \
            va_end(rest);                                                 \
        }                                                                 \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);                 \
        if (refused(path)) return -1;                                     \
        return opened(real(folder, path, flags, mode), path);             \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* What may be read now; 0 with errno set if nothing may. */
static size_t allowed(int fd, size_t count) {
    if (fd < 0 || fd >= MOST || !touched[fd] || count == 0) return count;
    if (is_how("slow")) {
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
    }
    if (is_how("short") && count > SHORT) return SHORT;
    if ((is_how("eio") || is_how("estale")) && is_due()) {
        errno = is_how("eio") ? EIO : ESTALE;
        return 0;
    }
    return count;
}

ssize_t read(int fd, void *buffer, size_t count) {
    static ssize_t (*real)(int, void *, size_t);
    size_t now = allowed(fd, count);
    if (real == NULL) real = dlsym(RTLD_NEXT, "read");
    if (now == 0 && count > 0) return -1;
    return real(fd, buffer, now);
}

#define PREAD(name, offset_type)                                          \
    ssize_t name(int fd, void *buffer, size_t count, offset_type offset) { \
        static ssize_t (*real)(int, void *, size_t, offset_type);         \
        size_t now = allowed(fd, count);                                  \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);                 \
        if (now == 0 && count > 0) return -1;                             \
        return real(fd, buffer, now, offset);                             \
    }

PREAD(pread, off_t)
PREAD(pread64, off64_t)
