// SPDX-License-Identifier: GPL-2.0

//! What is restored without the device.

mod common;

use common::{file, image, place};
use libepollcr::image::{Descriptor, Image, Kind};
use libepollcr::restore::{Error, Parking, Restore};
use libepollcr::types::PipeEnds;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, read};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: they use the same numbers.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn without_items() -> Image {
    let mut image = image();
    for file in &mut image.files {
        if let Kind::Epoll { items } = &mut file.kind {
            items.clear();
        }
    }
    image
}

fn bytes(fd: &OwnedFd) -> Vec<u8> {
    let mut buffer = [0; 64];
    let len = read(fd, &mut buffer).unwrap();
    buffer[..len].to_vec()
}

#[test]
fn everything_is_where_it_was() {
    let _alone = alone();
    let image = without_items();
    let restored = Restore::new(&image).run(None).unwrap();
    let fds = &restored.descriptors;
    assert_eq!(fds.len(), image.descriptors.len());
    for descriptor in &image.descriptors {
        let fd = &fds[&descriptor.number];
        assert_eq!(fd.as_raw_fd(), descriptor.number as i32);
        let cloexec = fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC);
        assert_eq!(cloexec, descriptor.cloexec);
    }
    assert_eq!(bytes(&fds[&600]), b"in the pipe");
    assert_eq!(bytes(&fds[&602]), 1u64.to_ne_bytes());
    assert_eq!(bytes(&fds[&605]), b"with a file");
    assert_eq!(bytes(&fds[&607]), b"");
    let passwd = std::fs::read("/etc/passwd").unwrap();
    assert_eq!(bytes(&fds[&608])[..], passwd[17..81]);
    rustix::io::write(&fds[&601], b"more").unwrap();
    assert_eq!(bytes(&fds[&650]), b"more");
    // What only the message has is not held.
    assert!(restored.held.is_empty());
}

/// To restore what was sent is not what signals are for, and this one would end
/// the test.
#[test]
fn signals_go_to_the_process_but_not_yet() {
    const F_GETSIG: i32 = 11;

    let _alone = alone();
    let mut image = without_items();
    let owner = image.files[5].owner.as_mut().unwrap();
    (owner.id, owner.signal) = (image.origin.pid, libc::SIGUSR1 as u32);
    let restored = Restore::new(&image).run(None).unwrap();
    let fd = restored.descriptors[&605].as_raw_fd();
    let ask = |command| {
        // SAFETY: these tell numbers.
        unsafe { libc::fcntl(fd, command) }
    };
    assert_eq!(ask(libc::F_GETOWN), std::process::id() as i32);
    assert_eq!(ask(F_GETSIG), libc::SIGUSR1);
    assert_ne!(ask(libc::F_GETFL) & libc::O_ASYNC, 0);
    // So that nothing is sent when its peer is closed.
    // SAFETY: it takes a number.
    unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
}

#[test]
fn nothing_is_closed_by_exec() {
    let _alone = alone();
    let image = without_items();
    let restored = Restore::new(&image).keep_across_exec().run(None).unwrap();
    for fd in restored.descriptors.values() {
        assert_eq!(fcntl_getfd(fd).unwrap(), FdFlags::empty());
    }
}

fn why(image: &Image) -> Vec<String> {
    let problems = Restore::new(image).problems(None);
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn all_problems_are_named_at_once() {
    let _alone = alone();
    let mut image = without_items();
    assert_eq!(why(&image), [""; 0]);
    if let Kind::Path { place, .. } = &mut image.files[8].kind {
        place.inode += 1;
    }
    image.files[8].link = b"/etc/\x1bpasswd".to_vec();
    image.files[2].locks = Some(1);
    image.files[2].link.clear();
    image.files[3].kind = Kind::Other {
        why: "it is odd".into(),
    };
    image.files[5].owner.as_mut().unwrap().id = 77;
    image.pipes[0].elsewhere = PipeEnds::WRITE;
    let taken = File::open("/dev/null").unwrap();
    let number = taken.as_raw_fd() as u32;
    let cloexec = false;
    let descriptor = Descriptor {
        number,
        file: 11,
        cloexec,
    };
    image.descriptors.insert(0, descriptor);
    let elsewhere = "its write end is open elsewhere, and not in the image";
    let expected = [
        format!("descriptor {number} is open in this process"),
        format!("descriptor 600 (and 1 more), anon_inode:[something]: {elsewhere}"),
        format!("descriptor 601, anon_inode:[something]: {elsewhere}"),
        "descriptor 602: there is a lock on it, which would be lost".into(),
        "file f3, which has no descriptor, anon_inode:[something]: it is odd".into(),
        "descriptor 605, anon_inode:[something]: its signals go to process 77".into(),
        "descriptor 608, /etc/\u{1b}passwd: its path leads to another file now".into(),
    ];
    assert_eq!(why(&image), expected);

    let error = Restore::new(&image).run(None).unwrap_err();
    assert!(matches!(&error, Error::Problems(problems) if problems.len() == expected.len()));
    assert_eq!(error.to_string(), "7 things cannot be restored");
}

#[test]
fn devices_and_what_was_unlinked_are_named() {
    let _alone = alone();
    let mut image = Image::default();
    let position = 0;
    let tty = place("/dev/ptmx");
    let mut gone = place("/etc/passwd");
    gone.unlinked = true;
    for place in [tty, gone] {
        image
            .files
            .push(file(Kind::Path { place, position }, libc::O_RDONLY));
    }
    let found = why(&image);
    assert!(found[0].ends_with(": a device has a state of its own"));
    assert!(found[1].ends_with(": it was unlinked"));
}

#[test]
fn what_is_given_is_not_made() {
    let _alone = alone();
    let mut image = without_items();
    image.files[8].kind = Kind::Other { why: "odd".into() };
    let mut restore = Restore::new(&image);
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let null = Parking::new(&image).park(null).unwrap();
    restore.give(8, null);
    let restored = restore.run(None).unwrap();
    assert_eq!(bytes(&restored.descriptors[&608]), b"");
}

/// The common image has an edge that is due, and a oneshot that has fired.
#[test]
fn items_are_added_by_their_numbers() {
    let _alone = alone();
    let mut image = image();
    let Kind::Epoll { items } = &mut image.files[10].kind else {
        unreachable!();
    };
    items[1].tfd = 712;
    let restored = Restore::new(&image).run(None).unwrap();
    let set = &restored.descriptors[&610];
    let mut events = Vec::with_capacity(8);
    let now = Timespec::default();
    epoll::wait(set, spare_capacity(&mut events), Some(&now)).unwrap();
    let data: Vec<_> = events.iter().map(|event| { event.data }.u64()).collect();
    assert_eq!(data, [u64::MAX]);

    // This number is one of ours.
    let taken = fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), 712).unwrap();
    drop(restored);
    let number = taken.as_raw_fd();
    let Kind::Epoll { items } = &mut image.files[10].kind else {
        unreachable!();
    };
    items[1].tfd = number as u32;
    let expected = format!("descriptor {number} is open in this process");
    assert_eq!(why(&image), [expected]);
}
