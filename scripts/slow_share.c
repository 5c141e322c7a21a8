/* A share that answers late: what opens, lists, looks at or reads a file below $SLOW_SHARE waits $SLOW_SHARE_MS first.
   For LD_PRELOAD; `bench_growth.py` compiles it. Several threads wait at once, as on a real share. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void wait_for_server(void) {
    const char *ms = getenv("SLOW_SHARE_MS");
    long left = (ms ? atol(ms) : 5) * 1000000L;
    struct timespec pause = {left / 1000000000L, left % 1000000000L};
    nanosleep(&pause, NULL);
}

static int is_on_share(const char *path) {
    const char *share = getenv("SLOW_SHARE");
    return share && path && strncmp(path, share, strlen(share)) == 0;
}

/* One answer of the server lists as many names as fit into 32 kB, here a hundred. */
struct dirent64 *readdir64(DIR *folder) {
    static struct dirent64 *(*real)(DIR *);
    static __thread int names;
    if (!real) real = dlsym(RTLD_NEXT, "readdir64");
    if (names++ % 100 == 0 && getenv("SLOW_SHARE")) wait_for_server();
    return real(folder);
}

/* Of a file that is open, how much the server may still send with its last answer: a megabyte at most. Closed ones
   keep what they had until their number is given again. */
#define FILES 4096
#define ANSWER (1L << 20)
static long left[FILES];
static char on_share[FILES];

static int noted(int file, int shared) {
    if (file >= 0 && file < FILES) {
        on_share[file] = shared;
        left[file] = 0;
    }
    return file;
}

int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list more;
    if (!real) real = dlsym(RTLD_NEXT, "open64");
    va_start(more, flags);
    int mode = va_arg(more, int), shared = is_on_share(path);
    va_end(more);
    if (shared) wait_for_server();
    return noted(real(path, flags, mode), shared);
}

ssize_t read(int file, void *into, size_t most) {
    static ssize_t (*real)(int, void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "read");
    int shared = file >= 0 && file < FILES && on_share[file] && most;
    if (shared && left[file] <= 0) {
        wait_for_server();
        left[file] = ANSWER;
    }
    ssize_t got = real(file, into, most);
    if (shared && got > 0) left[file] -= got;
    return got;
}

off64_t lseek64(int file, off64_t to, int whence) {
    static off64_t (*real)(int, off64_t, int);
    if (!real) real = dlsym(RTLD_NEXT, "lseek64");
    if (file >= 0 && file < FILES && to && whence == SEEK_SET) left[file] = 0;
    return real(file, to, whence);
}

DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    if (!real) real = dlsym(RTLD_NEXT, "opendir");
    if (is_on_share(path)) wait_for_server();
    return real(path);
}

int stat64(const char *path, struct stat64 *found) {
    static int (*real)(const char *, struct stat64 *);
    if (!real) real = dlsym(RTLD_NEXT, "stat64");
    if (is_on_share(path)) wait_for_server();
    return real(path, found);
}

int lstat64(const char *path, struct stat64 *found) {
    static int (*real)(const char *, struct stat64 *);
    if (!real) real = dlsym(RTLD_NEXT, "lstat64");
    if (is_on_share(path)) wait_for_server();
    return real(path, found);
}

int fstatat64(int folder, const char *path, struct stat64 *found, int flags) {
    static int (*real)(int, const char *, struct stat64 *, int);
    if (!real) real = dlsym(RTLD_NEXT, "fstatat64");
    if (is_on_share(path)) wait_for_server();
    return real(folder, path, found, flags);
}
