/* SPDX-License-Identifier: BSD-2-Clause */
/* I/O commands and flags that buf(9) and bio(9) share. */
#ifndef NIC_HARNESS_SYS_BIO_H
#define NIC_HARNESS_SYS_BIO_H

/* bio_cmd, b_iocmd */
#define BIO_READ 0x01
#define BIO_WRITE 0x02
#define BIO_DELETE 0x03
#define BIO_GETATTR 0x04
#define BIO_FLUSH 0x05

/* bio_flags, b_ioflags */
#define BIO_ERROR 0x01 /* b_error holds the error */
#define BIO_DONE 0x02

#endif
