/* SPDX-License-Identifier: BSD-2-Clause */
/* The guard beside other handlers of SIGBUS: it holds whatever they do, and they get what is theirs. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/guard.h"
#include "check.h"

static char *gone;    /* a page of a file that is no longer that long */
static int *survived; /* guarded accesses to it, shared with the children */

static void
guarded(void)
{
    char c;

    CHECK_EQ(guard_copy(&c, gone, 1), -EFAULT);
    ++*survived;
    CHECK_EQ(guard_copy(&c, "a", 1), 0);
    CHECK_EQ(c, 'a');
}

static void
touch(void)
{
    *(volatile char *)gone;
}

static void
leave(int sig)
{
    (void)sig;
    _exit(42);
}

/* in_child() - what becomes of a process that does so, after @guarded accesses: its wait status */
static int
in_child(void (*what)(void), int guarded)
{
    int status;

    *survived = 0;
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        what();
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(*survived, guarded);
    return status;
}

static void
a_handler_before(void)
{
    signal(SIGBUS, leave);
    guarded();
    touch();
}

static void
a_handler_after(void)
{
    guarded();
    signal(SIGBUS, leave);
    guarded();
    touch();
}

static void
a_handler_put_back(void)
{
    guarded();
    signal(SIGBUS, SIG_DFL); /* as whoever came before us and does not know of us */
    guarded();
    touch();
}

static struct sigaction below;

static void
pass_on(int sig)
{
    sigaction(SIGBUS, &below, NULL);
    raise(sig);
}

/* One that came after us and passes on to us what we pass on to it: somebody has to end it. */
static void
a_circle(void)
{
    guarded();
    sigaction(SIGBUS, NULL, &below);
    signal(SIGBUS, pass_on);
    guarded();
    touch();
}

int
main(void)
{
#ifdef __SANITIZE_THREAD__
    SKIP("ThreadSanitizer stands between a program and its signals");
#endif
    int fd = memfd_create("file", MFD_CLOEXEC);

    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    gone = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(gone != MAP_FAILED);
    CHECK_EQ(ftruncate(fd, 0), 0);
    survived = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(survived != MAP_FAILED);
    signal(SIGBUS, SIG_DFL); /* a sanitizer has a handler, which would report */

    int status = in_child(a_handler_before, 1);

    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = in_child(a_handler_after, 2);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = in_child(a_handler_put_back, 2);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    status = in_child(a_circle, 2);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    munmap(gone, 4096);
    munmap(survived, 4096);
    close(fd);
    return 0;
}
