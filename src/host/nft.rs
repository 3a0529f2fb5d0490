//! nftables over netlink: just the NAT of a home router, so that the lab needs no `nft` program.

use std::io;

use super::netlink::{self, Message};

const TABLE: &[u8] = b"aegisray\0";
const CHAIN: &[u8] = b"postrouting\0";
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// Attribute numbers of `linux/netfilter/nf_tables.h`, by the message that they are in.
mod attr {
    pub const TABLE_NAME: u16 = 1;
    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const CHAIN_TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
    pub const RULE_TABLE: u16 = 1;
    pub const RULE_CHAIN: u16 = 2;
    pub const RULE_EXPRESSIONS: u16 = 4;
    pub const LIST_ELEMENT: u16 = 1;
    pub const EXPR_NAME: u16 = 1;
    pub const EXPR_DATA: u16 = 2;
    pub const META_DREG: u16 = 1;
    pub const META_KEY: u16 = 2;
    pub const CMP_SREG: u16 = 1;
    pub const CMP_OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const DATA_VALUE: u16 = 1;
}

/// Masquerades IPv4 that leaves through `interface`, in the namespace of the calling thread, in a table of our own.
pub fn masquerade(interface: &str) -> io::Result<()> {
    const NF_INET_POST_ROUTING: u32 = 4;
    const PRIORITY_SRCNAT: u32 = 100;
    const META_OIFNAME: u32 = 7;
    const REGISTER_1: u32 = 1;
    let mut name = interface.as_bytes().to_vec();
    name.resize(libc::IFNAMSIZ, 0);
    let number = |n: u32| n.to_be_bytes();
    let hook = Message::attributes()
        .attribute(attr::HOOK_NUMBER, &number(NF_INET_POST_ROUTING))
        .attribute(attr::HOOK_PRIORITY, &number(PRIORITY_SRCNAT));
    let expression = |name: &[u8], data: Message| {
        Message::attributes().attribute(attr::EXPR_NAME, name).nested(attr::EXPR_DATA, data)
    };
    let meta = Message::attributes()
        .attribute(attr::META_DREG, &number(REGISTER_1))
        .attribute(attr::META_KEY, &number(META_OIFNAME));
    let compare = Message::attributes()
        .attribute(attr::CMP_SREG, &number(REGISTER_1))
        .attribute(attr::CMP_OP, &number(0))
        .nested(attr::CMP_DATA, Message::attributes().attribute(attr::DATA_VALUE, &name));
    let expressions = Message::attributes()
        .nested(attr::LIST_ELEMENT, expression(b"meta\0", meta))
        .nested(attr::LIST_ELEMENT, expression(b"cmp\0", compare))
        .nested(attr::LIST_ELEMENT, expression(b"masq\0", Message::attributes()));
    let create = libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let parts = [
        message(libc::NFT_MSG_NEWTABLE, create).attribute(attr::TABLE_NAME, TABLE),
        message(libc::NFT_MSG_NEWCHAIN, create)
            .attribute(attr::CHAIN_TABLE, TABLE)
            .attribute(attr::CHAIN_NAME, CHAIN)
            .nested(attr::CHAIN_HOOK, hook)
            .attribute(attr::CHAIN_TYPE, b"nat\0"),
        message(libc::NFT_MSG_NEWRULE, create | libc::NLM_F_APPEND)
            .attribute(attr::RULE_TABLE, TABLE)
            .attribute(attr::RULE_CHAIN, CHAIN)
            .nested(attr::RULE_EXPRESSIONS, expressions),
    ];
    // A transaction: begin, the parts, end; acknowledged part by part.
    let frame = |kind| Message::new(kind, 0, &[0, 0, 0, NFNL_SUBSYS_NFTABLES as u8]);
    let mut batch = frame(NFNL_MSG_BATCH_BEGIN).finish(1);
    let last = parts.len() as u32 + 1;
    for (part, sequence) in parts.into_iter().zip(2..) {
        batch.extend_from_slice(&part.finish(sequence));
    }
    batch.extend_from_slice(&frame(NFNL_MSG_BATCH_END).finish(last + 1));
    let fd = netlink::open(libc::NETLINK_NETFILTER, 0)?;
    netlink::send(&fd, &batch)?;
    netlink::acknowledged(&fd, last)
}

/// nfgenmsg: family IPv4, version 0, resource 0.
fn message(kind: libc::c_int, flags: libc::c_int) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind as u16, flags, &[libc::NFPROTO_IPV4 as u8, 0, 0, 0])
}
