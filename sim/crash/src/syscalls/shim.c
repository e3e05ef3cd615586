/* Makes one system call on a file of a folder fail, once. Loaded with LD_PRELOAD.
 *
 * The calls of interest are trapped by seccomp, not replaced in libc, so that calls made without libc
 * are met, too. The handler of the trap makes the call itself, from the one place that the filter
 * lets through, unless it is the one that is to fail.
 *
 * Environment:
 *   CRASH_FAULT_DIR    absolute path; only calls on what lies in it count
 *   CRASH_FAULT_CALLS  numbers of the system calls that are met, separated by commas
 *   CRASH_FAULT_COUNTED  how many of these, from the first, count
 *   CRASH_FAULT_AT     which call of those fails, from 1
 *   CRASH_FAULT_ERRNO  with what error; 0 makes a read or write short
 *   CRASH_FAULT_STAYS  if not 0, every later call that needs room fails as well
 *   CRASH_FAULT_MARKS  file that a line is appended to when it happens
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define CALLS_MAX 32

static long calls[CALLS_MAX];
static int calls_count;
static long calls_counted;
static char folder[4096];
static size_t folder_length;
static int marks = -1;
static long fault_at;
static long fault_errno;
static int fault_stays;
static atomic_long counted;
static atomic_int has_happened;

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
extern char let_through[];
__attribute__((noinline)) static long make(long nr, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall\n.globl let_through\n.hidden let_through\nlet_through:"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#define REGISTER(u, name) ((u)->uc_mcontext.gregs[REG_##name])
#define ARGUMENTS(u) {REGISTER(u, RDI), REGISTER(u, RSI), REGISTER(u, RDX), \
                      REGISTER(u, R10), REGISTER(u, R8), REGISTER(u, R9)}
#define RESULT(u) REGISTER(u, RAX)
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
extern char let_through[];
__attribute__((noinline)) static long make(long nr, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0\n.globl let_through\n.hidden let_through\nlet_through:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#define ARGUMENTS(u) {(long)(u)->uc_mcontext.regs[0], (long)(u)->uc_mcontext.regs[1], \
                      (long)(u)->uc_mcontext.regs[2], (long)(u)->uc_mcontext.regs[3], \
                      (long)(u)->uc_mcontext.regs[4], (long)(u)->uc_mcontext.regs[5]}
#define RESULT(u) ((u)->uc_mcontext.regs[0])
#else
#error "the shim knows x86-64 and arm64"
#endif

/* Appends to a text that may not grow past its end. */
static size_t append(char *to, size_t at, size_t end, const char *text) {
    while (*text && at + 1 < end) to[at++] = *text++;
    to[at] = 0;
    return at;
}

/* The path of an open file; what is no file has none that begins with a slash. */
static int path_of(long fd, char *path, size_t size) {
    char link[64];
    char digits[24];
    int at = sizeof digits - 1;
    digits[at] = 0;
    unsigned long left = fd < 0 ? 0 : (unsigned long)fd;
    do {
        digits[--at] = '0' + left % 10;
        left /= 10;
    } while (left);
    append(link, append(link, 0, sizeof link, "/proc/self/fd/"), sizeof link, digits + at);
    long length = make(SYS_readlinkat, AT_FDCWD, (long)link, (long)path, size - 1, 0, 0);
    if (fd < 0 || length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* Whether a path lies in the folder. */
static int is_inside(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* Path of what a named call is about. */
static int path_at(long directory, const char *name, char *path, size_t size) {
    if (!name) return 0;
    if (name[0] == '/') {
        append(path, 0, size, name);
        return 1;
    }
    if ((int)directory == AT_FDCWD || !path_of(directory, path, size)) return 0;
    size_t at = append(path, strlen(path), size, "/");
    append(path, at, size, name);
    return 1;
}

/* Whether a call is about something in the folder; fills in what. */
static int concerns(long nr, const long *args, char *path, size_t size) {
    int known = 0;
    switch (nr) {
#ifdef SYS_open
    case SYS_open:
    case SYS_creat:
    case SYS_rename:
    case SYS_unlink:
    case SYS_rmdir:
    case SYS_mkdir:
        known = path_at(AT_FDCWD, (const char *)args[0], path, size);
        break;
#endif
    case SYS_openat:
    case SYS_renameat:
    case SYS_renameat2:
    case SYS_unlinkat:
    case SYS_mkdirat:
        known = path_at(args[0], (const char *)args[1], path, size);
        break;
    case SYS_mmap:
        known = path_of((int)args[4], path, size);
        break;
    default:
        known = path_of((int)args[0], path, size);
    }
    return known && is_inside(path);
}

static int counts(long nr) {
    for (int i = 0; i < calls_count && i < calls_counted; i++)
        if (calls[i] == nr) return 1;
    return 0;
}

static int needs_room(long nr, const long *args) {
    switch (nr) {
    case SYS_write:
    case SYS_pwrite64:
    case SYS_writev:
    case SYS_pwritev:
    case SYS_fallocate:
    case SYS_mkdirat:
#ifdef SYS_open
    case SYS_mkdir:
#endif
        return 1;
    case SYS_openat:
        return (args[2] & O_CREAT) != 0;
    default:
        return 0;
    }
}

/* Half of what was asked for, at least one byte. */
static long make_short(long nr, const long *a) {
    struct iovec half;
    switch (nr) {
    case SYS_writev:
    case SYS_pwritev:
    case SYS_readv:
    case SYS_preadv:
        if (a[2] < 1) break;
        half = *(const struct iovec *)a[1];
        half.iov_len = (half.iov_len + 1) / 2;
        return make(nr, a[0], (long)&half, 1, a[3], a[4], a[5]);
    case SYS_write:
    case SYS_pwrite64:
    case SYS_read:
    case SYS_pread64:
        return make(nr, a[0], a[1], (a[2] + 1) / 2, a[3], a[4], a[5]);
    }
    return make(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void tell(long nr, const char *path) {
    char line[4200];
    char digits[8];
    int at = sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = '0' + nr % 10;
        nr /= 10;
    } while (nr);
    size_t end = append(line, 0, sizeof line, "FAULT ");
    end = append(line, end, sizeof line, digits + at);
    end = append(line, end, sizeof line, " ");
    end = append(line, end, sizeof line, path);
    end = append(line, end, sizeof line, "\n");
    make(SYS_write, marks, (long)line, end, 0, 0, 0);
}

static void trapped(int signal, siginfo_t *info, void *context) {
    (void)signal;
    ucontext_t *u = context;
    const long a[6] = ARGUMENTS(u);
    long nr = info->si_syscall;
    char path[4096];
    if (concerns(nr, a, path, sizeof path)) {
        if (counts(nr) && atomic_fetch_add(&counted, 1) + 1 == fault_at) {
            atomic_store(&has_happened, 1);
            tell(nr, path);
            RESULT(u) = fault_errno ? -fault_errno : make_short(nr, a);
            return;
        }
        if (fault_stays && atomic_load(&has_happened) && needs_room(nr, a)) {
            RESULT(u) = -ENOSPC;
            return;
        }
    }
    RESULT(u) = make(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int install(void) {
    struct sock_filter filter[CALLS_MAX + 16];
    uint64_t let = (uint64_t)(uintptr_t)let_through;
    unsigned short n = 0;
#define ADD(...) filter[n++] = (struct sock_filter)__VA_ARGS__
#define LOAD(field) ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(field)))
    LOAD(offsetof(struct seccomp_data, arch));
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    /* Little-endian: the low half of the address comes first. */
    LOAD(offsetof(struct seccomp_data, instruction_pointer));
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)let, 0, 3));
    LOAD(offsetof(struct seccomp_data, instruction_pointer) + 4);
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(let >> 32), 0, 1));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    LOAD(offsetof(struct seccomp_data, nr));
    for (int i = 0; i < calls_count; i++)
        ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], (unsigned char)(calls_count - i), 0));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
    struct sock_fprog program = {n, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("CRASH_FAULT_DIR");
    const char *list = getenv("CRASH_FAULT_CALLS");
    const char *count = getenv("CRASH_FAULT_COUNTED");
    const char *at = getenv("CRASH_FAULT_AT");
    const char *error = getenv("CRASH_FAULT_ERRNO");
    const char *stays = getenv("CRASH_FAULT_STAYS");
    const char *file = getenv("CRASH_FAULT_MARKS");
    if (!dir || !list || !count || !at || !error || !file) return;
    folder_length = append(folder, 0, sizeof folder, dir);
    fault_at = atol(at);
    calls_counted = atol(count);
    fault_errno = atol(error);
    fault_stays = stays && atol(stays);
    for (char *end = NULL; *list && calls_count < CALLS_MAX; list = *end ? end + 1 : end)
        calls[calls_count++] = strtol(list, &end, 10);
    marks = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct sigaction action = {0};
    action.sa_sigaction = trapped;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    if (marks < 0 || sigaction(SIGSYS, &action, NULL) || install()) _exit(97);
}
