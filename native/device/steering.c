/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/steering.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef TUNSETSTEERINGEBPF
#define TUNSETSTEERINGEBPF _IOR('T', 224, int) /* Linux 4.16 */
#endif

/* attach() - @prog: -1: none */
static int
attach(int fd, int prog)
{
    return ioctl(fd, TUNSETSTEERINGEBPF, &prog) < 0 ? -errno : 0;
}

int
tap_steer_by_byte(int fd, uint32_t offset)
{
    /* The TAP takes the result modulo its queues. A load beyond the frame returns 0. */
    const struct bpf_insn code[] = {
        /* r6 = r1: the frame, where BPF_ABS looks for it */
        {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_6, .src_reg = BPF_REG_1},
        {.code = BPF_LD | BPF_ABS | BPF_B, .imm = (int32_t)offset}, /* r0 = frame[offset] */
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attr.insns = (uint64_t)(uintptr_t)code;
    attr.insn_cnt = sizeof(code) / sizeof(code[0]);
    attr.license = (uint64_t)(uintptr_t)"BSD";
    int prog = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

    if (prog < 0)
        return -errno;
    int err = attach(fd, prog);

    close(prog); /* the TAP keeps it */
    return err;
}

int
tap_steer_automatic(int fd)
{
    return attach(fd, -1);
}
