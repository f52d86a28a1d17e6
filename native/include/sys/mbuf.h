/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mbuf(9): chains of buffers, packet headers, external storage.
 *
 * An mbuf is 256 bytes. Its data are inside it (MLEN bytes, or MHLEN with a packet header) or in
 * external storage. External storage is shared by a reference count, kept in the mbuf that it was
 * first attached to.
 */
#ifndef NIC_HARNESS_SYS_MBUF_H
#define NIC_HARNESS_SYS_MBUF_H

#include <harness/decls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <vm/vm.h>

HARNESS_BEGIN_DECLS

#define MSIZE 256

/* How to wait. Pools here never sleep: with M_WAITOK a pool grows before the call fails. */
#define M_NOWAIT 0x0001
#define M_WAITOK 0x0002
#define M_DONTWAIT M_NOWAIT
#define M_TRYWAIT M_WAITOK

/* mbuf types */
#define MT_NOTMBUF 0
#define MT_DATA 1
#define MT_HEADER MT_DATA
#define MT_SONAME 8
#define MT_CONTROL 14
#define MT_OOBDATA 15

/* m_flags */
#define M_EXT 0x00000001    /* external storage */
#define M_PKTHDR 0x00000002 /* start of a packet */
#define M_EOR 0x00000004    /* end of a record */
#define M_RDONLY 0x00000008 /* data may not be written */
#define M_BCAST 0x00000010
#define M_MCAST 0x00000020
#define M_FREED 0x80000000 /* in the pool; used to detect a double free */

/* m_ext.ext_type */
#define EXT_CLUSTER 1
#define EXT_SFBUF 2 /* sf_buf: file pages */
#define EXT_JUMBOP 3
#define EXT_PACKET 6
#define EXT_NET_DRV 252    /* a network driver's own storage */
#define EXT_MOD_TYPE 253   /* a module's own storage */
#define EXT_DISPOSABLE 254 /* may be taken by a page flip */
#define EXT_EXTREF 255     /* reference count kept elsewhere */

/* m_pkthdr.csum_flags. Outbound: what remains to be done. Inbound: what is known. */
#define CSUM_PARTIAL 0x0001    /* sum [csum_start, end), store at csum_start + csum_data */
#define CSUM_DATA_VALID 0x0002 /* inbound: verified by the device */
#define CSUM_TSO4 0x0010       /* a TCP/IPv4 super-frame of tso_segsz segments */
#define CSUM_TSO6 0x0020
#define CSUM_USO 0x0040 /* a UDP super-frame */
#define CSUM_ECN 0x0080 /* a TCP super-frame that carries CWR */
#define CSUM_TSO (CSUM_TSO4 | CSUM_TSO6)
#define CSUM_GSO (CSUM_TSO | CSUM_USO)

struct mbuf;
struct mbuf_zone;

typedef void ext_free_t(caddr_t buf, void *args);

struct pkthdr {
    int32_t len;         /* bytes in the whole packet */
    uint32_t csum_flags; /* CSUM_* */
    uint16_t csum_start; /* bytes from the start of the frame */
    uint16_t csum_data;  /* offset of the sum from csum_start */
    uint16_t tso_segsz;  /* payload bytes per segment */
    uint16_t hdr_len;    /* link, network and transport headers of a super-frame, bytes */
    uint32_t flowid;
    uint16_t queue; /* receive queue */
    uint16_t ether_vtag;
    uint64_t rcv_tstmp; /* ns, CLOCK_REALTIME; 0: no timestamp */
    void *rcvif;        /* receiving struct nic */
};

struct mbuf_ext {
    caddr_t ext_buf;   /* start of the storage */
    uint32_t ext_size; /* bytes */
    uint8_t ext_type;  /* EXT_* */
    uint8_t ext_pad[3];
    struct mbuf *ext_owner; /* the mbuf that holds the count; may be this one */
    uint32_t ext_count;     /* references; valid in the owner; accessed atomically */
    uint32_t ext_pad2;
    ext_free_t *ext_free; /* valid in the owner */
    void *ext_args;       /* valid in the owner */
};

struct m_hdr {
    struct mbuf *mh_next;
    struct mbuf *mh_nextpkt;
    caddr_t mh_data;
    int32_t mh_len;
    uint32_t mh_flags;
    struct mbuf_zone *mh_zone;
    uint8_t mh_type;
    uint64_t mh_alloc_site : 56; /* return address of the allocating call */
};

#define MLEN (MSIZE - (int)sizeof(struct m_hdr))
#define MHLEN (MLEN - (int)sizeof(struct pkthdr))
#define MINCLSIZE (MHLEN + 1)

struct mbuf {
    struct m_hdr m_hdr;
    union {
        struct {
            struct pkthdr MH_pkthdr;
            union {
                struct mbuf_ext MH_ext;
                char MH_databuf[MSIZE - sizeof(struct m_hdr) - sizeof(struct pkthdr)];
            } MH_dat;
        } MH;
        char M_databuf[MSIZE - sizeof(struct m_hdr)];
    } M_dat;
};

#define m_next m_hdr.mh_next
#define m_nextpkt m_hdr.mh_nextpkt
#define m_data m_hdr.mh_data
#define m_len m_hdr.mh_len
#define m_flags m_hdr.mh_flags
#define m_type m_hdr.mh_type
#define m_zone m_hdr.mh_zone
#define m_pkthdr M_dat.MH.MH_pkthdr
#define m_ext M_dat.MH.MH_dat.MH_ext
#define m_pktdat M_dat.MH.MH_dat.MH_databuf
#define m_dat M_dat.M_databuf

#ifndef __cplusplus
_Static_assert(sizeof(struct mbuf) == MSIZE, "an mbuf is MSIZE bytes");
#endif

#define mtod(m, t) ((t)((m)->m_data))
#define mtodo(m, o) ((void *)((m)->m_data + (o)))

#define M_COPYALL 1000000000

/* m_get(), m_gethdr() - allocate an mbuf (with a packet header) from the current arena; NULL on failure. */
struct mbuf *m_get(int how, short type);
struct mbuf *m_gethdr(int how, short type);

/*
 * m_extadd() - attach external storage
 * @m: mbuf without external storage
 * @buf, @size: storage and its length in bytes
 * @freef: called once, with (@buf, @args), when the last reference is dropped
 * @args: passed to @freef
 * @flags: more m_flags for the mbuf, M_RDONLY for storage that may not be written
 * @type: EXT_*
 *
 * Return: 0; -EINVAL, with nothing changed, if @m already has storage, or @freef or @buf is NULL.
 */
int m_extadd(struct mbuf *m, caddr_t buf, unsigned int size, ext_free_t *freef, void *args,
             int flags, int type);
#define MEXTADD(m, buf, size, freef, args, flags, type)                                            \
    ((void)m_extadd((m), (buf), (size), (freef), (args), (flags), (type)))

/* m_free() - free one mbuf and return the next of its chain. m_freem() - free a chain. NULL is allowed. */
struct mbuf *m_free(struct mbuf *m);
void m_freem(struct mbuf *m);

/*
 * m_copym() - copy part of a chain, sharing its external storage
 * @m: chain, not changed
 * @off, @len: bytes; @len may be M_COPYALL
 * @how: M_NOWAIT or M_WAITOK
 *
 * The copy has a packet header if @off is 0 and @m has one. Data inside mbufs are copied.
 *
 * Return: the copy; NULL if there are no mbufs or the range exceeds the chain.
 */
struct mbuf *m_copym(struct mbuf *m, int off, int len, int how);

/* m_copypacket() - copy a whole packet, sharing its external storage; @m must have a packet header. */
struct mbuf *m_copypacket(struct mbuf *m, int how);

/*
 * m_split() - cut a chain in two
 * @m: chain; keeps the first @len0 bytes
 * @len0: 0 to the length of @m
 *
 * Return: the tail, with a packet header if @m has one; NULL on failure, with @m unchanged.
 */
struct mbuf *m_split(struct mbuf *m, int len0, int how);

/*
 * m_pullup() - make the first @len bytes contiguous in one mbuf
 * @m: chain; consumed on failure
 * @len: at most MHLEN
 *
 * Return: the chain; NULL on failure, with @m freed.
 */
struct mbuf *m_pullup(struct mbuf *m, int len);

/* m_adj() - trim @req_len bytes from the head, or -@req_len from the tail. */
void m_adj(struct mbuf *m, int req_len);

/* m_cat() - append @n to @m; a packet header of @n is ignored. */
void m_cat(struct mbuf *m, struct mbuf *n);

/* m_length() - bytes in the chain; *@last is set to its last mbuf, unless @last is NULL. */
unsigned int m_length(struct mbuf *m, struct mbuf **last);

/* m_copydata() - copy @len bytes from offset @off to @cp; 0, or -EINVAL beyond the end. */
int m_copydata(const struct mbuf *m, int off, int len, caddr_t cp);

/* m_prepend() - make room for @len bytes in front; NULL on failure, with @m freed. */
struct mbuf *m_prepend(struct mbuf *m, int len, int how);
#define M_PREPEND(m, plen, how) ((m) = m_prepend((m), (plen), (how)))

/* m_writable() - true if the data are neither read-only nor shared */
int m_writable(const struct mbuf *m);
#define M_WRITABLE(m) m_writable(m)

/* m_leadingspace(), m_trailingspace() - writable bytes before and after the data; 0 if shared */
int m_leadingspace(const struct mbuf *m);
int m_trailingspace(const struct mbuf *m);
#define M_LEADINGSPACE(m) m_leadingspace(m)
#define M_TRAILINGSPACE(m) m_trailingspace(m)

/* m_align() - place @len bytes of data at the end of an empty mbuf, to leave room for headers. */
void m_align(struct mbuf *m, int len);
#define M_ALIGN(m, len) m_align((m), (len))
#define MH_ALIGN(m, len) m_align((m), (len))

HARNESS_END_DECLS

#endif
