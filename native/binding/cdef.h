/*
 * The library as Python sees it, for cffi's parser: no preprocessor except `#define NAME ...`.
 * `...;` ends a struct that may have more members, in any order: the compiler fills in the rest.
 */

/* harness/version.h */

const char *harness_version(void);

/* base/process.h */

uint32_t process_forks(void);
int process_own(int fd);
void process_close(int fd);

/* machine/machine.h, arena/, kva/, mbuf/ */

struct machine_config {
    size_t pages;
    size_t max_pages;
    size_t max_mbufs;
    uint32_t nsfbufs;
    bool strict;
    ...;
};
struct machine {
    struct arena *arena;
    struct jumbo *jumbo;
    struct sf_map *sf_map;
    struct mbuf_zone *mbufs;
    struct lwbuf_map *lwbufs;
    struct pbuf_pool *pbufs;
    ...;
};
struct arena {
    size_t size;
    size_t npages;
    size_t kmem_pages;
    uint32_t id;
    uint8_t *direct;
    struct vm_page *pages;
    uint64_t misuse_total;
    ...;
};
struct harness_misuse {
    uint32_t kind;
    uint32_t state;
    uint64_t addr;
    uint64_t pindex;
    uint64_t history;
    uint64_t site;
    uint64_t alloc_site;
    uint64_t free_site;
    ...;
};
struct jumbo_stats {
    uint64_t total;
    uint64_t free;
    uint64_t in_use;
    uint64_t max_pages;
    uint64_t refused;
    uint64_t stolen;
    uint64_t away;
    uint64_t held;
    uint64_t grown;
    ...;
};
struct mbuf_stats {
    uint64_t total;
    uint64_t free;
    uint64_t in_use;
    uint64_t limit;
    uint64_t refused;
    ...;
};
struct sf_map_stats {
    uint64_t nsfbufs;
    uint64_t nsfbufsused;
    uint64_t nsfbufspeak;
    uint64_t wired;
    uint64_t extents_mapped;
    uint64_t hits;
    uint64_t maps;
    uint64_t populates;
    uint64_t sf_syscalls;
    uint64_t sf_noiocnt;
    uint64_t sf_iocnt;
    uint64_t sf_pages_read;
    uint64_t sf_pages_valid;
    uint64_t sf_rhpages_requested;
    uint64_t sf_rhpages_read;
    uint64_t sf_busy;
    uint64_t sf_allocfail;
    uint64_t sf_allocwait;
    uint64_t sf_pages_bogus;
    ...;
};

int machine_create(const struct machine_config *config, struct machine **out);
int machine_destroy(struct machine *m);
struct machine *machine_set_current(struct machine *m);
struct machine *machine_current(void);
int machine_idle(struct machine *m);

uint64_t arena_bytes_copied(const struct arena *a);
size_t arena_stale_bytes(const struct arena *a);
uint64_t arena_unmaps_refused(const struct arena *a);
bool arena_misuse_last(struct arena *a, uint64_t seen, struct harness_misuse *out);
const char *harness_misuse_name(int kind);
const char *vm_page_state_name(int state);
const char *vm_page_event_name(int event);
void jumbo_get_stats(struct jumbo *j, struct jumbo_stats *out);
void mbuf_zone_get_stats(struct mbuf_zone *z, struct mbuf_stats *out);
void sf_map_get_stats(struct sf_map *s, struct sf_map_stats *out);

#define CSUM_PARTIAL ...
#define CSUM_DATA_VALID ...
#define CSUM_TSO4 ...
#define CSUM_TSO6 ...
#define CSUM_USO ...
#define CSUM_ECN ...

void m_freem(struct mbuf *m);
struct mbuf *mb_frombytes(struct mbuf_zone *z, struct jumbo *j, const void *bytes, size_t len);

/* vm/, kva/, mbuf/: used by nic_harness.jumbo, sf_buf, lwbuf, pmap and mbuf */

typedef struct vm_page *vm_page_t;

struct vm_page {
    uint64_t pindex;
    uint32_t generation;
    uint32_t wire_count;
    uint32_t ref_count;
    uint16_t hold_count;
    uint8_t state;
    uint32_t slot;
    uint64_t history;
    uintptr_t alloc_site;
    uintptr_t free_site;
    ...;
};

#define PAGE_SIZE ...
#define VM_PAGE_NOSLOT ...
#define VPS_FREE ...
#define VPS_ALLOC ...
#define VPS_POSTED ...
#define VPS_MBUF ...
#define VPS_HELD ...
#define VPS_STOLEN ...
#define VPS_KMEM ...
#define VPS_FILE ...
#define MISUSE_DOUBLE_FREE ...
#define MISUSE_FOREIGN_ADDRESS ...
#define MISUSE_FREE_WHILE_POSTED ...
#define MISUSE_FREE_AFTER_STEAL ...
#define MISUSE_REFCOUNT ...
#define MISUSE_WRITE_AFTER_FREE ...
#define MISUSE_QUICK_NESTED ...
#define MISUSE_QUICK_FOREIGN ...
#define MISUSE_QUICK_BLOCKING ...
#define MISUSE_BAD_STATE ...
#define MISUSE_COUNT ...
#define MISUSE_RING ...

uint64_t arena_misuses(const struct arena *a, int kind);
unsigned arena_misuse_recent(struct arena *a, struct harness_misuse *out, unsigned max);
uint64_t arena_misuse_mine(struct harness_misuse *out);
void arena_report(struct arena *a, int kind, const void *addr, struct vm_page *m, void *site);
void harness_site_name(uint64_t site, char *out, size_t size);
int guard_copy(void *to, const void *from, size_t n);
void arena_count_copy(struct arena *a, size_t bytes);
void *arena_kva(const struct arena *a, const struct vm_page *m);
size_t arena_page_index(const struct arena *a, const struct vm_page *m);
bool arena_owns_page(const struct arena *a, const struct vm_page *m);
struct arena *arena_at(const void *addr);
vm_page_t phys_to_vm_page(uint64_t pa);
uint64_t vm_page_to_phys(vm_page_t m);
void vm_page_hold(vm_page_t m);
void vm_page_unhold(vm_page_t m);
void vm_page_wire(vm_page_t m);
void vm_page_unwire(vm_page_t m);
void vm_page_free(vm_page_t m);

struct vm_page *jumbo_alloc(struct jumbo *j, void *site);
int jumbo_free(struct jumbo *j, void *kva, void *site);
int jumbo_steal(struct jumbo *j, struct vm_page *m, void *site);
void jumbo_freem(char *addr, void *args);
struct vm_page *jumbo_page_at(const struct jumbo *j, const void *kva);
void *jumbo_kva(const struct jumbo *j, const struct vm_page *m);

#define SFB_DEFAULT ...
#define SFB_CATCH ...
#define SFB_CPUPRIVATE ...
#define SFB_NOWAIT ...

int vm_object_open(struct sf_map *s, int fd, struct vm_object **out);
void vm_object_close(struct vm_object *o);
int vm_object_fd(const struct vm_object *o);
int64_t vm_object_size(const struct vm_object *o);
struct vm_page *vm_object_grab(struct vm_object *o, uint64_t pindex, void *site);
struct sf_buf *sf_page_map(struct vm_page *m, int flags, void *site);
void sf_page_unmap(struct sf_buf *sf, void *site);
void sf_page_unwire(struct vm_page *m, void *site);
struct sf_page_info {
    struct vm_page page;
    uint64_t dev;
    uint64_t ino;
    int fd;
    uintptr_t kva;
    ...;
};
struct sf_extent_info {
    uint64_t dev;
    uint64_t ino;
    uint64_t first;
    int fd;
    uint32_t mapped;
    uint32_t users;
    ...;
};
bool sf_map_page(struct sf_map *s, const struct vm_page *m, struct sf_page_info *out);
unsigned sf_map_find(struct sf_map *s, uint64_t dev, uint64_t ino, uint64_t pindex,
                     struct sf_page_info *out, unsigned max);
#define SF_EXTENT_PAGES ...
unsigned sf_map_extents(struct sf_map *s, struct sf_extent_info *out, unsigned max);
void sf_buf_ref(struct sf_buf *sf);
uintptr_t sf_buf_kva(struct sf_buf *sf);
vm_page_t sf_buf_page(struct sf_buf *sf);
void sf_map_drop_cached(struct sf_map *s);

struct lwbuf {
    vm_page_t m;
    uintptr_t kva;
    ...;
};
struct lwbuf_stats {
    uint64_t count;
    uint64_t kva_bytes;
    uint64_t reserve;
    ...;
};
struct lwbuf *lwbuf_alloc(vm_page_t m, struct lwbuf *lwb);
void lwbuf_free(struct lwbuf *lwb);
vm_page_t lwbuf_page(struct lwbuf *lwb);
uintptr_t lwbuf_kva(struct lwbuf *lwb);
void lwbuf_set_global(struct lwbuf *lwb);
void lwbuf_get_stats(struct lwbuf_map *l, struct lwbuf_stats *out);

#define MAXPHYS ...

struct ucred;
struct ucred *crget(void);
struct buf {
    char *b_data;
    long b_bufsize;
    long b_bcount;
    long b_resid;
    int64_t b_blkno;
    uint32_t b_flags;
    uint8_t b_iocmd;
    uint8_t b_ioflags;
    int b_error;
    struct ucred *b_rcred;
    struct ucred *b_wcred;
    void *b_caller1;
    char *b_kvabase;
    int b_kvasize;
    ...;
};
struct pbuf_stats {
    uint64_t total;
    uint64_t free;
    uint64_t outstanding;
    uint64_t backed;
    uint64_t counter_waits;
    uint64_t pool_waits;
    uint64_t refused;
    ...;
};
struct buf *pbuf_get(struct pbuf_pool *p, int *pfreecnt, void *site);
struct buf *pbuf_try(struct pbuf_pool *p, int *pfreecnt, void *site);
int pbuf_rel(struct pbuf_pool *p, struct buf *bp, int *pfreecnt, void *site);
void pbuf_get_stats(struct pbuf_pool *p, struct pbuf_stats *out);

uintptr_t pmap_quick_enter_page(vm_page_t m);
void pmap_quick_remove_page(uintptr_t addr);

#define M_NOWAIT ...
#define M_WAITOK ...
#define M_COPYALL ...
#define M_EXT ...
#define M_PKTHDR ...
#define M_EOR ...
#define M_RDONLY ...
#define MT_DATA ...
#define MT_HEADER ...
#define MT_SONAME ...
#define MT_CONTROL ...
#define MT_OOBDATA ...
#define EXT_CLUSTER ...
#define EXT_SFBUF ...
#define EXT_JUMBOP ...
#define EXT_PACKET ...
#define EXT_NET_DRV ...
#define EXT_MOD_TYPE ...
#define EXT_DISPOSABLE ...
#define EXT_EXTREF ...
#define MLEN ...
#define MHLEN ...

struct mb_info {
    struct mbuf *next;
    void *data;
    void *storage;
    size_t size;
    int32_t len;
    int32_t pkthdr_len;
    uint32_t flags;
    uint32_t refs;
    uint8_t type;
    uint8_t ext_type;
    ...;
};
int mb_describe(const struct mbuf *m, struct mb_info *out);
int mb_set_len(struct mbuf *m, int32_t len);
void mb_set_type(struct mbuf *m, int type);
int mb_set_pkthdr_len(struct mbuf *m, int32_t len);
int mb_check(const struct mbuf *m);
struct mbuf *mb_get(struct mbuf_zone *z);
struct mbuf *mb_gethdr(struct mbuf_zone *z);
int m_extadd(struct mbuf *m, char *buf, unsigned int size, void (*freef)(char *buf, void *args),
             void *args, int flags, int type);
struct mbuf *m_free(struct mbuf *m);
struct mbuf *m_copym(struct mbuf *m, int off, int len, int how);
struct mbuf *m_copypacket(struct mbuf *m, int how);
struct mbuf *m_split(struct mbuf *m, int len0, int how);
struct mbuf *m_pullup(struct mbuf *m, int len);
void m_adj(struct mbuf *m, int req_len);
void m_cat(struct mbuf *m, struct mbuf *n);
unsigned int m_length(struct mbuf *m, struct mbuf **last);
int m_copydata(const struct mbuf *m, int off, int len, char *cp);
struct mbuf *m_prepend(struct mbuf *m, int len, int how);
int m_writable(const struct mbuf *m);
int m_leadingspace(const struct mbuf *m);
int m_trailingspace(const struct mbuf *m);
void m_align(struct mbuf *m, int len);

/* Free routine of storage that Python owns; @args is its key there. */
extern "Python" void harness_ext_free(char *buf, void *args);

/* device/, nic/ */

#define OFFLOAD_CSUM ...
#define OFFLOAD_TSO4 ...
#define OFFLOAD_TSO6 ...
#define OFFLOAD_ECN ...
#define OFFLOAD_USO ...
#define OFFLOAD_ALL ...
#define NIC_MAX_QUEUES ...
#define NIC_MTU_MIN ...
#define NIC_MTU_MAX ...
#define NIC_SPLIT_MAX ...
#define NET_FRAME_BUFFERS ...

struct device_queue_stats {
#include "device/counters.def"
};
struct device_info {
    const char *name;
    uint32_t offloads;
    unsigned nqueues;
    int wait_fd[...];
    struct device_queue_stats queue[...];
    ...;
};
struct nic_config {
    unsigned nqueues;
    uint32_t rx_ring_size;
    uint32_t tx_ring_size;
    uint32_t mtu;
    uint32_t offloads;
    uint8_t mac[6];
    uint32_t header_split;
    uint32_t rx_low_water;
    uint32_t coalesce_frames;
    uint32_t coalesce_us;
    bool (*alloc_fails)(void *arg, unsigned queue, bool tx);
    void *alloc_arg;
    ...;
};
struct nic_queue_stats {
#include "nic/counters.def"
};

struct device_kind {
    const char *name;
    const char *does;
    int (*create)(const int *fds, unsigned nqueues, struct device **out);
    unsigned automatic;
    bool everywhere;
};
extern const struct device_kind device_kinds[];
extern const unsigned device_nkinds;
int tap_steer_by_byte(int fd, uint32_t offset);
int tap_steer_automatic(int fd);
int vhost_net_missing(uint64_t *missing);
void device_destroy(struct device *d);

#define FAULT_COUNT ...
#define FAULT_RATE_ONE ...

struct faults_config {
    uint64_t seed;
    uint32_t rx[...];
    uint32_t tx[...];
    uint64_t delay_ns;
    uint32_t stall_polls;
    ...;
};
struct faults_stats {
    uint64_t rx[...];
    uint64_t tx[...];
    ...;
};
const char *fault_name(int f);
bool faults_alloc_fails(void *faults, unsigned queue, bool tx);
int faults_create(struct device *inner, const struct faults_config *config, struct device **out);
void faults_get_stats(const struct device *d, struct faults_stats *out);

#define PCAPNG_MORE ...

struct capture_record {
    uint32_t caplen;
    ...;
};
struct capture_stats {
    uint64_t received, sent;
    uint64_t kept;
    uint64_t dropped;
    ...;
};
int capture_create(struct device *inner, uint32_t snaplen, size_t buffer, struct device **out);
size_t capture_read(struct device *d, void *out, size_t size);
void capture_get_stats(const struct device *d, struct capture_stats *out);
size_t pcapng_packets(const void *records, size_t size, void *out, size_t room, size_t *taken);
size_t pcapng_section(void *out, size_t room, const char *hardware, const char *os,
                      const char *application);
size_t pcapng_interface(void *out, size_t room, uint32_t snaplen, const char *name,
                        const char *description, const uint8_t *mac);
struct pcapng_summary {
    uint64_t began, ended;
    uint64_t seen;
    uint64_t dropped_before;
    uint64_t dropped;
    uint64_t kept;
};
size_t pcapng_statistics(void *out, size_t room, const struct pcapng_summary *s);

enum pcap_direction {
    PCAP_UNKNOWN,
    PCAP_IN,
    PCAP_OUT,
    ...
};
struct pcap_frame {
    const uint8_t *data;
    int64_t sec;
    uint32_t nsec;
    uint32_t caplen;
    uint32_t len;
    bool timed;
    uint8_t direction;
    ...;
};
struct pcap_other {
    uint16_t link;
    uint64_t frames;
    ...;
};
struct pcap_progress {
    uint64_t frames;
    uint64_t other_frames;
    uint64_t offset;
    struct pcap_other other[...];
    unsigned nother;
    bool begun;
    ...;
};
struct pcap_reader;
int pcap_reader_create(struct pcap_reader **out);
void pcap_reader_destroy(struct pcap_reader *r);
void *pcap_reader_room(struct pcap_reader *r, size_t *room);
void pcap_reader_fed(struct pcap_reader *r, size_t len);
int pcap_reader_next(struct pcap_reader *r, struct pcap_frame *out, unsigned most);
const char *pcap_reader_problem(const struct pcap_reader *r);
void pcap_reader_progress(const struct pcap_reader *r, struct pcap_progress *out);

int nic_attach(struct jumbo *j, struct mbuf_zone *z, struct device *d,
               const struct nic_config *config, struct nic **out);
int nic_detach(struct nic *n);
int nic_wait_fd(const struct nic *n, unsigned queue);
int nic_queue_error(const struct nic *n, unsigned queue);
const char *vq_error_name(int error);
int nic_tx_flush(struct nic *n, unsigned queue);
unsigned nic_tx_room(const struct nic *n, unsigned queue, unsigned segs);
struct nic_ring {
    uint32_t size;
    uint16_t avail;
    uint16_t used;
    uint16_t taken;
};
void nic_get_ring(const struct nic *n, unsigned queue, bool tx, struct nic_ring *out);
int nic_check(struct nic *n);
void nic_get_stats(struct nic *n, unsigned queue, struct nic_queue_stats *out);
struct vq_desc {
    uint64_t addr;
    uint32_t len;
    ...;
};
struct vring {
    uint32_t num;
    struct vq_desc *desc;
    ...;
};
const struct vring *nic_vring(const struct nic *n, unsigned queue, bool tx);
void nic_describe(struct nic *n, struct device_info *out);
uint32_t nic_offloads(const struct nic *n);

struct frame {
    struct mbuf *m;
    void *data;
    uint64_t timestamp;
    uint32_t data_len;
    uint32_t len;
    uint32_t nsegs;
    uint32_t csum_flags;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t gso_size;
    uint16_t hdr_len;
};
struct frame_seg {
    void *data;
    size_t len;
};
struct frame_tx {
    struct mbuf *m;
    const void *data;
    size_t len;
    uint32_t csum_flags;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t gso_size;
    uint16_t hdr_len;
};

int nic_rx_frames(struct nic *n, unsigned queue, struct frame *out, unsigned max);
void frames_taken(const struct frame *f, unsigned n, const void *site);
void frames_free(struct frame *f, unsigned n);
void frame_describe(struct mbuf *m, struct frame *out);
unsigned frame_segs(const struct mbuf *m, struct frame_seg *out, unsigned max);
void frame_copied(const struct mbuf *m, size_t bytes);
int nic_tx_frames(struct nic *n, unsigned queue, const struct frame_tx *in, unsigned count,
                  unsigned *taken);

/* mbuf/flip.h */

struct flip_stats {
    uint64_t pages_flipped;
    uint64_t bytes_flipped;
    uint64_t bytes_copied;
    uint64_t unaligned;
    uint64_t shared;
    uint64_t not_jumbo;
    uint64_t peeked;
    uint64_t no_mapping;
    ...;
};
struct user_area {
    uint8_t *base;
    size_t npages;
    struct vm_page **page;
    struct flip_stats stats;
    ...;
};
int user_area_create(struct arena *a, size_t npages, struct user_area **out);
void user_area_destroy(struct user_area *u);
ssize_t recv_flip(struct mbuf **chain, struct user_area *u, size_t off, size_t len, int flags);

/* inet/ */

#define TCPS_CLOSED ...
#define TCPS_LISTEN ...
#define TCPS_SYN_SENT ...
#define TCPS_SYN_RECEIVED ...
#define TCPS_ESTABLISHED ...
#define TCPS_CLOSE_WAIT ...
#define TCPS_FIN_WAIT_1 ...
#define TCPS_CLOSING ...
#define TCPS_LAST_ACK ...
#define TCPS_FIN_WAIT_2 ...
#define TCPS_TIME_WAIT ...

#define INET_BUF_MIN ...
#define INET_BUF_MAX ...
struct inet_config {
    uint32_t addr;
    uint32_t netmask;
    uint32_t gateway;
    unsigned queue;
    uint32_t sndbuf;
    uint32_t rcvbuf;
    uint32_t budget;
    uint32_t unclaimed;
    uint64_t seed;
    ...;
};
struct inet_stats {
#include "inet/counters.def"
};
struct inet_memory {
    uint32_t pages_limit, pages_used, pages_promised;
    uint32_t mbufs_limit, mbufs_used;
    uint32_t conns_limit, conns;
    uint32_t half_open, orphans, time_wait;
};
struct tcp_info_s {
    uint32_t state;
    int32_t error;
    uint32_t mss;
    uint32_t snd_wnd, rcv_wnd, cwnd, ssthresh;
    uint32_t unsent, unacked;
    uint32_t readable;
    uint32_t srtt_us, rto_us;
    uint32_t local_addr, peer_addr;
    uint16_t local_port, peer_port;
    uint8_t timestamps, wscale_ok, snd_wscale, rcv_wscale;
    uint64_t bytes_acked, bytes_received;
    uint64_t retransmits;
    ...;
};

int inet_create(struct nic *n, const struct inet_config *config, struct inet **out);
void inet_let_go(struct inet **in);
int inet_poll(struct inet *in);
uint64_t inet_deadline(const struct inet *in);
unsigned inet_recv_unclaimed(struct inet *in, struct mbuf **out, unsigned max);
void inet_get_stats(const struct inet *in, struct inet_stats *out);
void inet_get_memory(const struct inet *in, struct inet_memory *out);

int tcp_connect(struct inet *in, uint32_t addr, uint16_t port, uint16_t local_port,
                struct tcp_conn **out);
int tcp_listen(struct inet *in, uint16_t port, unsigned backlog, struct tcp_conn **out);
bool tcp_accept_into(struct tcp_conn *listener, struct tcp_conn **out);
struct tcp_source {
    const void *data;
    struct mbuf *chain;
    size_t len;
    size_t done;
};
int tcp_send_some(struct tcp_conn *c, struct tcp_source *s);
void tcp_set_more(struct tcp_conn *c, bool more);
int tcp_output(struct tcp_conn *c);
struct mbuf *tcp_recv(struct tcp_conn *c, uint32_t max);
bool tcp_eof(const struct tcp_conn *c);
int tcp_shutdown(struct tcp_conn *c);
void tcp_let_go(struct tcp_conn **c, bool reset);
void tcp_get_info(const struct tcp_conn *c, struct tcp_info_s *out);

/* sendfile/ */

#define SF_NODISKIO ...
#define SF_SYNC ...
#define SF_NOCACHE ...
#define SENDFILE_SF_BUF ...
#define SENDFILE_COPY ...
#define SENDFILE_DIRECT ...

struct sendfile {
    int64_t offset;
    int64_t end;
    int strategy;
    uint64_t sbytes;
    uint64_t syscalls;
    bool shrunk;
    bool of_file;
    int error;
    ...;
};

int sendfile_begin(struct sendfile *s, struct tcp_conn *c, struct inet *in, struct sf_map *map,
                   struct jumbo *jumbo, int fd, int64_t offset, int64_t nbytes,
                   const struct tcp_source *header, const struct tcp_source *trailer, int flags,
                   int strategy);
int sendfile_run(struct sendfile *s, int64_t budget_ns);
void sendfile_end(struct sendfile *s);
