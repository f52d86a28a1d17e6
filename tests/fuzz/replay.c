/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs a fuzz target on files: those of the folders and the files that are its arguments, and every cut of each. */
#include <dirent.h>
#include <errno.h>

#include "fuzz.h"

static unsigned runs;

static void
run_file(const char *path)
{
    static uint8_t data[65536];
    FILE *f = fopen(path, "rb");

    MUST(f);
    size_t size = fread(data, 1, sizeof(data), f);

    fclose(f);
    for (size_t n = 0; n <= size; n++)
        LLVMFuzzerTestOneInput(data, n);
    runs++;
}

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        const struct dirent *e;
        char path[4096];

        if (d == NULL) {
            run_file(argv[i]);
            continue;
        }
        while ((e = readdir(d)) != NULL) {
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            run_file(path);
        }
        closedir(d);
    }
    MUST(runs > 0);
    return 0;
}
