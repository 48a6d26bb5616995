//! Orders to the kernel's network stack (netlink(7)): links, addresses and routes, and one rule of nftables.
//!
//! A socket belongs to the network namespace that it was made in, wherever the process goes afterwards.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::net::AddressFamily;
use rustix::net::Protocol;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::netlink;

/// linux/netlink.h
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// linux/if_addr.h, linux/rtnetlink.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const POST_ROUTING: u32 = 4;
/// Where source addresses are rewritten (NF_IP_PRI_NAT_SRC).
const PRIORITY: u32 = 100;

/// A link's size of packets: the largest that an IPv4 packet can be, in eights. What a step sends goes through one
/// program for each packet, so few large ones are fast.
const MTU: u32 = 65_520;

const NAME: &[u8] = b"rbuild\0";

/// A socket on which the kernel takes orders.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// For links, addresses and routes.
    pub(super) fn route() -> rustix::io::Result<Self> {
        Self::open(None)
    }

    /// For rules.
    pub(super) fn rules() -> rustix::io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> rustix::io::Result<Self> {
        rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map(Self)
    }

    /// Makes a pair of connected links: `name` with the number `index` here, `peer` with `peer_index` in `there`.
    pub(super) fn pair(
        &self,
        (name, index): (&str, u32),
        (peer, peer_index): (&str, u32),
        there: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let end = |name: &str, index, more: Vec<u8>| {
            let mut body = link(index, 0);
            body.extend(attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat()));
            body.extend(attribute(IFLA_MTU, &MTU.to_ne_bytes()));
            body.extend(more);
            body
        };
        let netns = attribute(IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
        let info = [
            attribute(IFLA_INFO_KIND, b"veth\0"),
            attribute(
                IFLA_INFO_DATA | NESTED,
                &attribute(VETH_INFO_PEER | NESTED, &end(peer, peer_index, netns)),
            ),
        ]
        .concat();
        let body = end(name, index, attribute(IFLA_LINKINFO | NESTED, &info));
        self.order(&[message(libc::RTM_NEWLINK, CREATE | EXCLUSIVE | ACK, &body)])
    }

    /// Gives a link an IPv4 address in a network of `bits`, and brings it up.
    pub(super) fn up(&self, index: u32, address: u32, bits: u8) -> io::Result<()> {
        let mut body = vec![libc::AF_INET as u8, bits, 0, 0];
        body.extend(index.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            body.extend(attribute(kind, &address.to_be_bytes()));
        }
        let up = link(index, libc::IFF_UP as u32);
        self.order(&[
            message(libc::RTM_NEWADDR, CREATE | EXCLUSIVE | ACK, &body),
            message(libc::RTM_NEWLINK, ACK, &up),
        ])
    }

    /// Sends what goes elsewhere to `gateway`, by the link `index`.
    pub(super) fn default_route(&self, gateway: u32, index: u32) -> io::Result<()> {
        // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        body.extend([RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0]);
        body.extend(attribute(RTA_GATEWAY, &gateway.to_be_bytes()));
        body.extend(attribute(RTA_OIF, &index.to_ne_bytes()));
        let flags = CREATE | EXCLUSIVE | ACK;
        self.order(&[message(libc::RTM_NEWROUTE, flags, &body)])
    }

    /// Gives all that leaves this namespace the address of the link it leaves by.
    pub(super) fn masquerade(&self) -> io::Result<()> {
        let hook = [
            attribute(HOOK_NUMBER, &POST_ROUTING.to_be_bytes()),
            attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes()),
        ];
        let chain = [
            attribute(CHAIN_TABLE, NAME),
            attribute(CHAIN_NAME, NAME),
            attribute(CHAIN_HOOK | NESTED, &hook.concat()),
            attribute(CHAIN_TYPE, b"nat\0"),
        ];
        let expression = attribute(
            LIST_ELEMENT | NESTED,
            &attribute(EXPRESSION_NAME, b"masq\0"),
        );
        let rule = [
            attribute(RULE_TABLE, NAME),
            attribute(RULE_CHAIN, NAME),
            attribute(RULE_EXPRESSIONS | NESTED, &expression),
        ];
        // struct nfgenmsg: family, version, resource (big endian).
        let of = |body: &[u8]| [&[libc::AF_INET as u8, 0, 0, 0], body].concat();
        let batch = [[0, 0].as_slice(), &NFTABLES.to_be_bytes()].concat();
        self.order(&[
            message(BATCH_BEGIN, 0, &batch),
            message(NEW_TABLE, CREATE | ACK, &of(&attribute(TABLE_NAME, NAME))),
            message(NEW_CHAIN, CREATE | ACK, &of(&chain.concat())),
            message(NEW_RULE, CREATE | APPEND | ACK, &of(&rule.concat())),
            message(BATCH_END, 0, &batch),
        ])
    }

    /// Sends messages at once, and waits until all that ask for an answer have a good one.
    fn order(&self, messages: &[Vec<u8>]) -> io::Result<()> {
        let asks = |m: &&Vec<u8>| u16::from_ne_bytes([m[6], m[7]]) & ACK != 0;
        let mut open = messages.iter().filter(asks).count();
        rustix::net::send(&self.0, &messages.concat(), SendFlags::empty())?;
        let mut buffer = vec![0; 16 << 10];
        while open > 0 {
            let (_, len) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
            })?;
            let mut rest = buffer.get(..len).unwrap_or_default();
            while let Some((kind, body, tail)) = split(rest) {
                if kind == ERROR {
                    match errno(body) {
                        0 => open = open.saturating_sub(1),
                        errno => return Err(io::Error::from_raw_os_error(errno)),
                    }
                }
                rest = tail;
            }
        }
        Ok(())
    }
}

/// struct ifinfomsg: family, type, index, flags, which of the flags count.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let fields = [0, index, flags, flags];
    fields.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// struct nlmsghdr and a body. Which of several an answer is for does not matter here: there is no number.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | REQUEST).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    padded(bytes)
}

/// struct nlattr and a value.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    padded(bytes)
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The first message of several: its kind, its body, and what is behind it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(16..len)?;
    let tail = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, tail))
}

/// What an NLMSG_ERROR says: 0 is an acknowledgement.
fn errno(body: &[u8]) -> i32 {
    let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code));
    code.map_or(libc::EBADMSG, i32::wrapping_neg)
}

#[cfg(test)]
mod t {
    use super::*;

    /// As `strace -e write=all ip link set lo up` shows it, but for the sequence number.
    #[test]
    fn a_message_is_what_iproute_sends() {
        let sent = message(libc::RTM_NEWLINK, ACK, &link(1, libc::IFF_UP as u32));
        let mut want = vec![32, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        want.extend([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(sent, want);
        assert_eq!(
            attribute(IFLA_IFNAME, b"eth0\0"),
            [9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]
        );
    }

    #[test]
    fn answers_are_told_apart_and_damaged_ones_end() {
        let bad = message(ERROR, 0, &(-libc::EEXIST).to_ne_bytes());
        let both = [message(ERROR, 0, &[0; 4]), bad.clone()].concat();
        let (kind, body, rest) = split(&both).unwrap();
        assert_eq!((kind, errno(body)), (ERROR, 0));
        let (_, body, rest) = split(rest).unwrap();
        assert_eq!(errno(body), libc::EEXIST);
        assert!(split(rest).is_none());
        for len in 0..bad.len() {
            assert!(split(&bad[..len]).is_none());
        }
        assert_eq!(errno(&[]), libc::EBADMSG);
    }
}
