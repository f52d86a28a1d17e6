/* SPDX-License-Identifier: BSD-2-Clause */
/* Header layouts: the offset of each field. */
#ifndef NIC_HARNESS_INET_WIRE_H
#define NIC_HARNESS_INET_WIRE_H

#include <stdint.h>

#include "base/byteorder.h"

/* Ethernet II */
#define ETH_DST 0
#define ETH_SRC 6
#define ETH_TYPE 12
#define ETH_HLEN 14
#define ETH_MINLEN 60 /* without the frame check sequence */
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP4 0x0806

/* ARP for IPv4 over Ethernet, RFC 826: offsets from the start of the ARP packet */
#define ARPH_HRD 0
#define ARPH_PRO 2
#define ARPH_HLN 4
#define ARPH_PLN 5
#define ARPH_OP 6
#define ARPH_SHA 8
#define ARPH_SPA 14
#define ARPH_THA 18
#define ARPH_TPA 24
#define ARP_LEN 28
#define ARP_REQUEST 1
#define ARP_REPLY 2

/* IPv4, RFC 791 */
#define IPH_VHL 0
#define IPH_TOS 1
#define IPH_LEN 2
#define IPH_ID 4
#define IPH_OFF 6
#define IPH_TTL 8
#define IPH_PROTO 9
#define IPH_CSUM 10
#define IPH_SRC 12
#define IPH_DST 16
#define IP_HLEN 20
#define IP_HLEN_MAX 60
#define IP_OFF_DF 0x4000
#define IP_OFF_FRAGMENT 0x3fff /* more fragments, or an offset */
#define IP_MAXLEN 65535u
#define IP_TTL_DEFAULT 64

/* ICMP, RFC 792 */
#define ICMPH_TYPE 0
#define ICMPH_CODE 1
#define ICMPH_CSUM 2
#define ICMPH_MTU 6 /* of "fragmentation needed", RFC 1191 */
#define ICMP_HLEN 8
#define ICMP_T_ECHOREPLY 0
#define ICMP_T_UNREACH 3
#define ICMP_T_ECHO 8
#define ICMP_C_PROTOCOL 2
#define ICMP_C_PORT 3
#define ICMP_C_NEEDFRAG 4

/* TCP, RFC 9293 */
#define TCPH_SPORT 0
#define TCPH_DPORT 2
#define TCPH_SEQ 4
#define TCPH_ACK 8
#define TCPH_OFF 12
#define TCPH_FLAGS 13
#define TCPH_WIN 14
#define TCPH_CSUM 16
#define TCPH_URP 18
#define TCP_HLEN 20
#define TCP_HLEN_MAX 60
#define TF_FIN 0x01
#define TF_SYN 0x02
#define TF_RST 0x04
#define TF_PSH 0x08
#define TF_ACK 0x10

#define TCPO_EOL 0
#define TCPO_NOP 1
#define TCPO_MSS 2
#define TCPO_WSCALE 3
#define TCPO_SACKOK 4
#define TCPO_SACK 5
#define TCPO_TS 8
#define TCPO_TS_ALIGNED 12 /* two NOPs and the option */
#define TCP_WSCALE_MAX 14  /* RFC 7323, 2.3 */

#endif
