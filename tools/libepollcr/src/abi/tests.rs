// SPDX-License-Identifier: GPL-2.0

//! Compares the interface with the header: each constant, and each member of each
//! struct with its type and offset.

use super::{CONSTANTS, IOC_TYPE, structs};
use rustix::ioctl::opcode;
use std::collections::BTreeMap;

const HEADER: &str = include_str!("epoll_cr.h");

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struct {
    pub name: String,
    pub size: usize,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub kind: String,
    pub offset: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Interface {
    constants: BTreeMap<String, u64>,
    structs: Vec<Struct>,
}

/// What this crate has. The size of each struct is a constant of the header, too.
fn ours() -> Interface {
    let structs = structs();
    let sizes = structs.iter().map(|found| {
        let name = found.name.to_uppercase() + "_SIZE_VER0";
        (name, found.size as u64)
    });
    let constants = CONSTANTS.iter().map(|&(name, value)| (name.into(), value));
    let constants = constants.chain(sizes).collect();
    Interface { constants, structs }
}

fn without_comments(header: &str) -> String {
    let mut text = String::new();
    let mut rest = header;
    while let Some((before, comment)) = rest.split_once("/*") {
        text += before;
        rest = comment.split_once("*/").expect("a comment ends").1;
    }
    text + rest
}

fn integer(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|_| panic!("{text} is not an integer"))
}

fn value(text: &str) -> u64 {
    let request = text.strip_prefix("_IO(EPOLL_CR_IOC_TYPE, ");
    match request.and_then(|rest| rest.strip_suffix(')')) {
        Some(nr) => opcode::none(IOC_TYPE, u8::try_from(integer(nr)).unwrap()).into(),
        None => integer(text),
    }
}

/// Adds a member as C lays it out: at a multiple of its own size.
fn push(found: &mut Struct, declaration: &str) {
    let (kind, name) = declaration.rsplit_once(' ').expect("a type and a name");
    let (kind, size) = match kind {
        "__s32" => ("i32", 4),
        "__u32" => ("u32", 4),
        "__u64" | "__aligned_u64" => ("u64", 8),
        kind => panic!("{kind} is not known"),
    };
    let offset = found.size.next_multiple_of(size);
    found.size = offset + size;
    found.members.push(Member {
        name: name.into(),
        kind: kind.into(),
        offset,
    });
}

/// What the header has. Whatever is in it that is not understood fails the test.
fn read(header: &str) -> Interface {
    let mut interface = Interface::default();
    let mut current: Option<Struct> = None;
    for line in without_comments(header).lines().map(str::trim) {
        let words: Vec<_> = line.split_whitespace().collect();
        if let Some(mut open) = current.take() {
            if line == "};" {
                let wide = open.members.iter().any(|member| member.kind == "u64");
                open.size = open.size.next_multiple_of(if wide { 8 } else { 4 });
                interface.structs.push(open);
                continue;
            }
            if let Some(declaration) = line.strip_suffix(';') {
                push(&mut open, declaration);
            } else {
                assert!(line.is_empty(), "{line} is not understood");
            }
            current = Some(open);
            continue;
        }
        match words[..] {
            []
            | ["#ifndef" | "#define", "_UAPI_LINUX_EPOLL_CR_H"]
            | ["#include", _]
            | ["#endif"]
            | ["enum", "{"]
            | ["};"] => {}
            ["#define", name, ..] => {
                let (_, text) = line.split_once(name).unwrap();
                let value = value(text.trim());
                interface.constants.insert(name.into(), value);
            }
            // Of an enum.
            [name, "=", ..] => {
                let (_, text) = line.split_once('=').unwrap();
                let value = value(text.trim().trim_end_matches(','));
                interface.constants.insert(name.into(), value);
            }
            ["struct", name, "{"] => {
                current = Some(Struct {
                    name: name.into(),
                    size: 0,
                    members: Vec::new(),
                });
            }
            _ => panic!("{line} is not understood"),
        }
    }
    interface
}

#[test]
fn the_interface_is_that_of_the_header() {
    let (ours, header) = (ours(), read(HEADER));
    assert_eq!(ours.constants, header.constants);
    assert_eq!(ours.structs, header.structs);
}

#[test]
fn any_difference_is_found() {
    for (from, to) in [
        ("EPOLL_CR_FD_EPOLL\t0x02", "EPOLL_CR_FD_EPOLL\t0x04"),
        ("EPOLL_CR_IOC_TYPE, 0x44", "EPOLL_CR_IOC_TYPE, 0x45"),
        ("EPOLL_CR_IOC_TYPE\t0xEC", "EPOLL_CR_IOC_TYPE\t0xED"),
        ("EPOLL_CR_ADD_SIZE_VER0\t24", "EPOLL_CR_ADD_SIZE_VER0\t32"),
        ("\t__u32 rdev_major;\n", "\t__u32 rdev_mayor;\n"),
        (
            "\t__u32 euid;\n\t__u32 egid;",
            "\t__u32 egid;\n\t__u32 euid;",
        ),
        ("\t__s32 tfd;\n\t__u32 toff;", "\t__u32 tfd;\n\t__u32 toff;"),
        ("\t__u64 bad;\n", "\t__u64 bad;\n\t__u64 more;\n"),
        (
            "#define EPOLL_CR_FILE_STAT",
            "#define EPOLL_CR_FILE_MORE\t0x20\n#define EPOLL_CR_FILE_STAT",
        ),
    ] {
        assert!(HEADER.contains(from), "{from}");
        assert_ne!(ours(), read(&HEADER.replace(from, to)), "{to}");
    }
}
