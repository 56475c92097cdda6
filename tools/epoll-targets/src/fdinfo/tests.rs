// SPDX-License-Identifier: GPL-2.0

//! Tests of the parser.

use super::*;
use proptest::prelude::*;

/// As the kernel's ep_show_fdinfo() does.
fn line(t: &Target) -> String {
    let known = format!(
        "tfd: {:8} events: {:8x} data: {:16x} ",
        t.tfd, t.events.0, t.data
    );
    match (t.pos, t.inode) {
        (Some(pos), Some(inode)) => format!(
            "{known} pos:{pos} ino:{:x} sdev:{:x}\n",
            inode.ino,
            (inode.major << 20) | inode.minor
        ),
        _ => known + "\n",
    }
}

fn all(text: &[u8]) -> io::Result<Vec<Target>> {
    Targets::new(text).collect()
}

fn target() -> impl Strategy<Value = Target> {
    let place = (any::<i64>(), any::<u64>(), 0..1u32 << 12, 0..1u32 << 20);
    // Few numbers, so that some come more than once.
    let number = prop_oneof![0..4, 0..=RawFd::MAX];
    (
        number,
        any::<u32>(),
        any::<u64>(),
        proptest::option::of(place),
    )
        .prop_map(|(tfd, events, data, place)| Target {
            tfd,
            toff: 0,
            events: Events(events),
            data,
            pos: place.map(|(pos, ..)| pos),
            inode: place.map(|(_, ino, major, minor)| Inode { ino, major, minor }),
        })
}

proptest! {
    #[test]
    fn what_is_shown_is_read(targets in proptest::collection::vec(target(), 0..20)) {
        let mut counts = HashMap::new();
        let mut text = String::from("pos:\t0\nflags:\t02000002\nmnt_id:\t17\n");
        let mut expected = Vec::new();
        for mut target in targets {
            text += &line(&target);
            let count = counts.entry(target.tfd).or_insert(0);
            target.toff = *count;
            *count += 1;
            expected.push(target);
        }
        prop_assert_eq!(all(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn any_bytes_give_targets_or_an_error(text: Vec<u8>) {
        let _ = all(&text);
    }

    #[test]
    fn any_words_give_targets_or_an_error(
        text in "(tfd:|events:|data:|pos:|ino:|sdev:|[ \t\n]|-?[0-9a-g]{1,17}){0,20}",
    ) {
        let lines = text.lines().filter(|l| l.starts_with("tfd:")).count();
        if let Ok(targets) = all(text.as_bytes()) {
            prop_assert_eq!(targets.len(), lines);
        }
    }

    #[test]
    fn events_are_all_named(bits: u32) {
        let back = Events(bits).to_string().split('|').fold(0, |sum, name| {
            let bit = Events::NAMES.iter().find(|(_, n)| *n == name);
            sum | match (bit, name.strip_prefix("0x")) {
                (Some((bit, _)), _) => *bit,
                (None, Some(rest)) => u32::from_str_radix(rest, 16).unwrap(),
                (None, None) => name.parse().unwrap(),
            }
        });
        prop_assert_eq!(back, bits);
    }
}

#[test]
fn old_and_new_kernels() {
    let text = b"tfd: 3 events: 19 data: 0\n\
                 tfd: 3 events: 19 data: 1  pos:-1 ino:a sdev:800001 more:1\n\
                 a line of a later kernel";
    let targets = all(text).unwrap();
    assert_eq!((targets[0].pos, targets[0].inode), (None, None));
    assert_eq!(targets[1].pos, Some(-1));
    let (ino, major, minor) = (10, 8, 1);
    assert_eq!(targets[1].inode, Some(Inode { ino, major, minor }));
    assert_eq!(targets.len(), 2);
}

#[test]
fn what_cannot_be_is_told_with_its_line() {
    for wrong in [
        "tfd:",
        "tfd: -1 events: 19 data: 0",
        "tfd: 2147483648 events: 19 data: 0",
        "tfd: 3 events: 100000000 data: 0",
        "tfd: 3 events: +19 data: 0",
        "tfd: 3 events: 19 data: 10000000000000000",
        "tfd: 3 events: 19",
        "tfd: 3 events: 19 data: 0  pos:0 ino:1",
        "tfd: 3 events: 19 data: 0  pos:0 ino:1 sdev:100000000",
        "tfd: 3 event\u{0}s: 19 data: 0",
    ] {
        let text = format!("pos:\t0\n{wrong}\ntfd: 3 events: 19 data: 0\n");
        let mut targets = Targets::new(text.as_bytes());
        let error = targets.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let inner: Option<&ParseError> = error.get_ref().and_then(|e| e.downcast_ref());
        let expected = ParseError {
            line: 2,
            text: wrong.into(),
        };
        assert_eq!(inner, Some(&expected));
        assert!(targets.next().is_none(), "the first error ends it");
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_only_in_a_target() {
    assert_eq!(all(b"\xff\xfe\n").unwrap(), []);
    assert!(all(b"tfd: 3 events: 19 data: 0 \xff\n").is_err());
}
