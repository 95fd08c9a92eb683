/* Faults of a file system and of a clock, for processes that preload this.
 *
 * The campaign (tools/faults.py) maps the struct below into the memory that
 * it shares with the processes that it forks, fills it in and reads what
 * happened. Only calls on files below `folder` count. Python, Rust and the
 * C++ of torch call these functions of libc; what libc calls inside of itself
 * (fwrite) is out of reach: a small tmpfs does that part.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The same numbers and fields as in inject.py. */
enum { OPEN = 1, WRITE = 2, FSYNC = 4, RENAME = 8, UNLINK = 16, MKDIR = 32 };
enum {
  COUNT, ERROR, KILL_BEFORE, KILL_AFTER, KILL_HALF, SHORT_WRITE, SLOW,
  DONE_AND_ERROR, CLOCK, SILLY_RENAME
};
struct faults {
  long action, calls, at, error, sticky, microseconds, clock_offset, pid;
  long count, fired, each[6];
  char folder[1024], path[1024];
};
static struct faults *faults;

/* Memory that the processes share, which stays until the last has ended. */
struct faults *faults_share(void) {
  faults = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return faults == MAP_FAILED ? faults = NULL : faults;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Path of a descriptor, or of a name in the folder of a descriptor. */
static const char *path_of(int fd, const char *name, char *text) {
  char link[64];
  ssize_t size = 0;
  if (name && name[0] == '/') return name;
  if (fd == AT_FDCWD) {
    if (!getcwd(text, PATH_MAX)) return "";
    size = strlen(text);
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, text, PATH_MAX - 1);
    if (size < 0) return "";
    text[size] = 0;
  }
  if (name) snprintf(text + size, PATH_MAX - size, "/%s", name);
  return text;
}

/* What to do at this call. Errors may be those of every later call too. */
static long decide(int call, int fd, const char *name) {
  char text[2 * PATH_MAX];
  if (!faults || !faults->folder[0] || !call) return COUNT;
  int before = errno;
  const char *path = path_of(fd, name, text);
  errno = before;
  if (strncmp(path, faults->folder, strlen(faults->folder))) return COUNT;
  __sync_add_and_fetch(&faults->each[__builtin_ctzl(call)], 1);
  if (!(faults->calls & call)) return COUNT;
  long number = __sync_add_and_fetch(&faults->count, 1);
  if (number != faults->at && !(faults->sticky && number > faults->at))
    return COUNT;
  if (!__sync_fetch_and_add(&faults->fired, 1))
    snprintf(faults->path, sizeof faults->path, "%s", path);
  if (faults->action == KILL_BEFORE) kill(faults->pid, SIGKILL), pause();
  if (faults->action == SLOW) usleep(faults->microseconds);
  return faults->action;
}

#define DIE_AFTER(what, result)                                 \
  if (what == KILL_AFTER || what == KILL_HALF)                  \
    kill(faults->pid, SIGKILL), pause();                        \
  if (what == DONE_AND_ERROR && result != -1) {                 \
    errno = faults->error;                                      \
    return -1;                                                  \
  }                                                             \
  return result;
/* Calls that return -1 for an error. */
#define WRAP(call, fd, path, run)                               \
  long what = decide(call, fd, path);                           \
  if (what == ERROR) {                                          \
    errno = faults->error;                                      \
    return -1;                                                  \
  }                                                             \
  __typeof__(run) result = run;                                 \
  DIE_AFTER(what, result)
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))

#define OPEN_AT(name)                                           \
  int name(int fd, const char *path, int flags, ...) {          \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;   \
    va_end(rest);                                               \
    WRAP(WRITES(flags) ? OPEN : 0, fd, path,                    \
         REAL(name)(fd, path, flags, mode))                     \
  }
#define OPEN_PATH(name)                                         \
  int name(const char *path, int flags, ...) {                  \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;   \
    va_end(rest);                                               \
    WRAP(WRITES(flags) ? OPEN : 0, AT_FDCWD, path,              \
         REAL(name)(path, flags, mode))                         \
  }
#define FOPEN(name)                                             \
  FILE *name(const char *path, const char *mode) {              \
    int call = strpbrk(mode, "wa+") ? OPEN : 0;                 \
    if (decide(call, AT_FDCWD, path) == ERROR) {                \
      errno = faults->error;                                    \
      return NULL;                                              \
    }                                                           \
    return REAL(name)(path, mode);                              \
  }
OPEN_AT(openat)
OPEN_AT(openat64)
OPEN_PATH(open)
OPEN_PATH(open64)
FOPEN(fopen)
FOPEN(fopen64)

/* A kill in the middle, and a short write, leave the first half. */
#define PART(what, size)                                        \
  ((what == KILL_HALF || what == SHORT_WRITE) && size > 1 ? size / 2 : size)
ssize_t write(int fd, const void *data, size_t size) {
  long what = decide(WRITE, fd, NULL);
  if (what == ERROR) {
    errno = faults->error;
    return -1;
  }
  ssize_t result = REAL(write)(fd, data, PART(what, size));
  DIE_AFTER(what, result)
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
  WRAP(WRITE, fd, NULL, REAL(pwrite64)(fd, data, size, at))
}
ssize_t writev(int fd, const struct iovec *parts, int number) {
  WRAP(WRITE, fd, NULL, REAL(writev)(fd, parts, number))
}
ssize_t sendfile64(int out, int in, off_t *at, size_t size);
ssize_t sendfile64(int out, int in, off_t *at, size_t size) {
  WRAP(WRITE, out, NULL, REAL(sendfile64)(out, in, at, size))
}
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size,
                        unsigned flags) {
  WRAP(WRITE, out, NULL,
       REAL(copy_file_range)(in, from, out, to, size, flags))
}
int ftruncate(int fd, off_t size) {
  WRAP(WRITE, fd, NULL, REAL(ftruncate)(fd, size))
}
int ftruncate64(int fd, off_t size) {
  WRAP(WRITE, fd, NULL, REAL(ftruncate64)(fd, size))
}
int fsync(int fd) { WRAP(FSYNC, fd, NULL, REAL(fsync)(fd)) }
int fdatasync(int fd) { WRAP(FSYNC, fd, NULL, REAL(fdatasync)(fd)) }
int rename(const char *from, const char *to) {
  WRAP(RENAME, AT_FDCWD, to, REAL(rename)(from, to))
}
int renameat(int old, const char *from, int new, const char *to) {
  WRAP(RENAME, new, to, REAL(renameat)(old, from, new, to))
}
int link(const char *from, const char *to) {
  WRAP(RENAME, AT_FDCWD, to, REAL(link)(from, to))
}
int mkdir(const char *path, mode_t mode) {
  WRAP(MKDIR, AT_FDCWD, path, REAL(mkdir)(path, mode))
}

/* NFS keeps a file that somebody has open under another name. */
static int silly(int fd, const char *path) {
  char text[2 * PATH_MAX], kept[3 * PATH_MAX];
  const char *whole = path_of(fd, path, text);
  const char *name = strrchr(whole, '/');
  snprintf(kept, sizeof kept, "%.*s/.nfs%016lx", (int)(name - whole), whole,
           faults->fired);
  return REAL(rename)(whole, kept);
}
int unlink(const char *path) {
  long what = decide(UNLINK, AT_FDCWD, path);
  if (what == SILLY_RENAME) return silly(AT_FDCWD, path);
  if (what == ERROR) {
    errno = faults->error;
    return -1;
  }
  int result = REAL(unlink)(path);
  DIE_AFTER(what, result)
}
int unlinkat(int fd, const char *path, int flags) {
  long what = decide(UNLINK, fd, path);
  if (what == SILLY_RENAME && !(flags & AT_REMOVEDIR)) return silly(fd, path);
  if (what == ERROR) {
    errno = faults->error;
    return -1;
  }
  int result = REAL(unlinkat)(fd, path, flags);
  DIE_AFTER(what, result)
}

/* The wall clock jumps when the call `at` on files has been reached. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = REAL(clock_gettime)(clock, now);
  if (faults && faults->action == CLOCK && faults->fired &&
      clock == CLOCK_REALTIME)
    now->tv_sec += faults->clock_offset;
  return result;
}
time_t time(time_t *into) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec fine;
  int result = clock_gettime(CLOCK_REALTIME, &fine);
  now->tv_sec = fine.tv_sec;
  now->tv_usec = fine.tv_nsec / 1000;
  (void)zone;
  return result;
}
