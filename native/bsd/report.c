/* SPDX-License-Identifier: BSD-2-Clause */
#include "bsd/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PRINTED_MAX 100 /* misuses printed at most, so that a loop cannot fill the disk */
#define PLACES_MAX 32   /* places printed at exit at most */

static enum {
    REPORT_OFF, /* no machine was created here, or reports are off */
    REPORT_PRINT,
    REPORT_ABORT,
} mode;

static pid_t
    reporter; /* a forked child has copies of its parent's objects, and is silent at exit */
static _Atomic unsigned printed;

/* say() - write one line to standard error in one call, without stdio's buffers and locks */
__attribute__((format(printf, 1, 2))) static void
say(const char *format, ...)
{
    char line[2048] = "nic-harness: ";
    size_t used = strlen(line);
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line + used, sizeof(line) - used - 1, format, args);

    va_end(args);
    if (n > 0)
        used += (size_t)n < sizeof(line) - used - 1 ? (size_t)n : sizeof(line) - used - 2;
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);

    (void)written; /* nothing to do about an error */
}

static void
say_misuse(const struct harness_misuse *m)
{
    unsigned n = atomic_fetch_add_explicit(&printed, 1, memory_order_relaxed) + 1;
    char text[1536];

    if (n <= PRINTED_MAX || mode == REPORT_ABORT) {
        harness_misuse_text(m, text, sizeof(text));
        say("%s", text);
    }
    if (n == PRINTED_MAX)
        say("further misuses are counted and not printed");
    if (mode == REPORT_ABORT)
        abort();
}

/*
 * The library's destructors run after all of a program's atexit(3) functions, so objects freed
 * there are not reported.
 */
__attribute__((destructor)) static void
say_what_is_out(void)
{
    struct harness_out out[PLACES_MAX];
    char name[256];

    if (mode == REPORT_OFF || getpid() != reporter)
        return;
    unsigned n = harness_out(out, PLACES_MAX);

    for (unsigned i = 0; i < n; i++) {
        harness_site_name(out[i].site, name, sizeof(name));
        say("not given back at exit: %llu x %s%s%s", (unsigned long long)out[i].count, out[i].what,
            out[i].site ? ", taken at " : "", out[i].site ? name : "");
    }
    if (printed > PRINTED_MAX)
        say("%u misuses in all", printed);
}

void
report_start(struct machine *m)
{
    const char *value = secure_getenv("NIC_HARNESS_MISUSE");

    if (value && strcmp(value, "off") == 0)
        return;
    mode = value && strcmp(value, "abort") == 0 ? REPORT_ABORT : REPORT_PRINT;
    if (value && value[0] != '\0' && mode != REPORT_ABORT && strcmp(value, "print") != 0)
        say("NIC_HARNESS_MISUSE=%s is unknown: use print, abort or off; it is taken for print",
            value);
    reporter = getpid();
    m->arena->on_misuse = say_misuse;
}
