/* SPDX-License-Identifier: BSD-2-Clause */
/* The guard beside other SIGBUS handlers: it works whatever they do, and they get their own signals. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/guard.h"
#include "check.h"

static char *gone;    /* a page beyond the end of a file that shrank */
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

/* in_child() - run this in a child after @guarded accesses; returns its wait status */
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
    signal(SIGBUS, SIG_DFL); /* like earlier code that does not know of our handler */
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

/* A later handler that passes signals on to us while we pass them to it: the loop must end. */
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
