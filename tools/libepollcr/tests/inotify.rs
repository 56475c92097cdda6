// SPDX-License-Identifier: GPL-2.0

//! Inotify instances keep their watches.

mod process;

use libepollcr::image::{Image, Kind};
use libepollcr::restore::Restore;
use process::*;
use rustix::event::epoll::EventFlags;
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use rustix::io::ioctl_fionread;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use tempfile::{TempDir, tempdir};

/// Whether paths cannot be found here: files are opened by their handles, for which neither
/// each user may ask nor each file system has them.
fn is_skipped(image: &Image, number: i32) -> bool {
    let lacks = ["CAP_DAC_READ_SEARCH", "by its handle", "does not show"];
    let why = why(image, number).filter(|why| lacks.iter().any(|lack| why.contains(lack)));
    if let Some(why) = why {
        skip(why);
    }
    why.is_some()
}

/// A directory whose file system opens files by their handles, which that of a guest's root
/// need not do.
fn directory() -> TempDir {
    let found = ["/dev/shm", "/tmp"]
        .into_iter()
        .find_map(|at| TempDir::new_in(at).ok());
    found.unwrap_or_else(|| tempdir().unwrap())
}

fn watcher(number: i32) -> OwnedFd {
    at(
        number,
        init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap(),
    )
}

/// What fdinfo shows of the watches, sorted.
fn shown(number: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("inotify "));
    let mut lines: Vec<_> = lines.map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Watch descriptor, events and name of each event.
fn events(inotify: &OwnedFd) -> Vec<(i32, u32, String)> {
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut space);
    let mut events = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        events.push((event.wd(), event.events().bits(), name.unwrap_or_default()));
    }
    events
}

#[test]
fn watches_are_made_again() {
    let Some(_alone) = alone() else { return };
    let directory = directory();
    let named = directory.path().join("with a blank \\ and \u{e9}");
    let other = directory.path().join("other");
    for path in [&named, &other] {
        fs::write(path, "contents").unwrap();
    }
    let (set, inotify) = (set(600), watcher(601));
    // The file is opened by the restore, and that is not reported.
    let file = at(602, File::open(&named).unwrap().into());
    let all = WatchFlags::ALL_EVENTS;
    assert_eq!(add_watch(&inotify, directory.path(), all), Ok(1));
    assert_eq!(add_watch(&inotify, &other, WatchFlags::MODIFY), Ok(2));
    remove_watch(&inotify, 2).unwrap();
    let once = WatchFlags::ATTRIB | WatchFlags::ONESHOT;
    assert_eq!(add_watch(&inotify, &named, once), Ok(3));
    let last = WatchFlags::MODIFY | WatchFlags::EXCL_UNLINK;
    let below = directory.path().join("below");
    fs::create_dir(&below).unwrap();
    events(&inotify);
    assert_eq!(add_watch(&inotify, &below, last), Ok(4));
    let none = WatchFlags::from_bits_retain(libc::IN_ISDIR);
    assert_eq!(add_watch(&inotify, &other, none), Ok(5));
    add(&set, &inotify, 7, EventFlags::IN | EventFlags::ET);
    let before = shown(601);
    assert_eq!(before.len(), 4);

    let mut image = dump();
    if is_skipped(&image, 601) {
        return;
    }
    // Whoever watches a mount does not notice, either.
    assert_eq!(ioctl_fionread(&inotify).unwrap(), 0);
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    assert_eq!(bytes[8], 3, "the version of the format");
    drop((set, inotify, file));
    let restored = restore(&mut image);
    assert_eq!(shown(601), before);
    let set = &restored.descriptors[&600];
    let inotify = &restored.descriptors[&601];
    assert_eq!(ioctl_fionread(inotify).unwrap(), 0);
    assert_eq!(reported(set), []);
    fs::rename(&other, directory.path().join("another")).unwrap();
    assert_eq!(reported(set), [7]);
    assert_eq!(
        events(inotify),
        [
            (1, libc::IN_MOVED_FROM, "other".to_owned()),
            (1, libc::IN_MOVED_TO, "another".to_owned()),
        ]
    );
}

#[test]
fn what_would_be_lost_is_named() {
    let Some(_alone) = alone() else { return };
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let (unread, removed) = (watcher(600), watcher(601));
    add_watch(&unread, directory.path(), WatchFlags::MODIFY).unwrap();
    add_watch(&removed, &path, WatchFlags::OPEN).unwrap();
    // It stays while it is open.
    let open = File::options().write(true).open(&path).unwrap();
    events(&removed);
    fs::write(&path, "more").unwrap();
    events(&removed);
    fs::remove_file(&path).unwrap();
    let image = dump();
    if is_skipped(&image, 601) {
        return;
    }
    assert_eq!(
        why(&image, 600),
        Some("it has events that were not read, and would be lost")
    );
    let said = why(&image, 601).unwrap();
    assert!(
        said.starts_with("it watches inode ") && said.ends_with(", which was removed"),
        "{said}"
    );
    drop((open, unread, removed));
}

#[test]
fn another_file_is_not_watched() {
    let Some(_alone) = alone() else { return };
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let inotify = watcher(600);
    add_watch(&inotify, &path, WatchFlags::MODIFY).unwrap();
    let mut image = dump();
    if is_skipped(&image, 600) {
        return;
    }
    assert!(
        matches!(&image.files[image.descriptors[0].file as usize].kind,
        Kind::Inotify { watches } if watches[0].place.path == path.as_os_str().as_encoded_bytes())
    );
    let number = inotify.as_raw_fd();
    drop(inotify);
    // Its inode is still there, so that the other one has another.
    fs::rename(&path, directory.path().join("old")).unwrap();
    fs::write(&path, "").unwrap();
    leave_others_out(&mut image);
    let problems = Restore::new(&image).problems(None);
    let said = format!(
        "descriptor {number}, anon_inode:inotify: {} cannot be watched again: its path leads to \
         another file now",
        path.display()
    );
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [said]);
}
