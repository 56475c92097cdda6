// SPDX-License-Identifier: GPL-2.0

//! Dumps and restores the epoll instances of this process as on a kernel without the
//! device.

use epoll_targets::Descriptor;
use epoll_targets::fdinfo::Targets;
use epoll_targets::kcmp::{self, Slot, Support};
use epoll_targets::resolve::{Method, Resolver};
use libepollcr::dump::Dump;
use libepollcr::image::{Image, Item, Kind};
use libepollcr::restore::{Restore, Restored};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fs::{
    MemfdFlags, Mode, SealFlags, SeekFrom, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
    memfd_create, seek,
};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, pread, pwrite, read, write};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, send, sendmsg, socketpair, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_gettime,
    timerfd_settime,
};
use std::fs::File;
use std::io::{BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: they use the same numbers.
static ALONE: Mutex<()> = Mutex::new(());

/// Descriptors of tests are not less.
const FIRST: RawFd = 600;

/// `None` if this kernel, or what confines this process, does not allow it.
fn alone() -> Option<MutexGuard<'static, ()>> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (kcmp::support() == Support::Epoll).then_some(alone)
}

fn at(number: RawFd, fd: OwnedFd) -> OwnedFd {
    let fd = fcntl_dupfd_cloexec(&fd, number).unwrap();
    assert_eq!(fd.as_raw_fd(), number);
    fd
}

fn set(number: RawFd) -> OwnedFd {
    at(number, epoll::create(CreateFlags::CLOEXEC).unwrap())
}

fn counter(number: RawFd, value: u32) -> OwnedFd {
    at(number, eventfd(value, EventfdFlags::NONBLOCK).unwrap())
}

fn pipe(numbers: [RawFd; 2]) -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (at(numbers[0], reader), at(numbers[1], writer))
}

fn add(set: &OwnedFd, file: &OwnedFd, data: u64, events: EventFlags) {
    epoll::add(set, file, EventData::new_u64(data), events).unwrap();
}

/// Adds a file by a number that is closed again.
fn add_by(set: &OwnedFd, file: &OwnedFd, number: RawFd, data: u64, events: EventFlags) {
    let copy = fcntl_dupfd_cloexec(file, number).unwrap();
    assert_eq!(copy.as_raw_fd(), number);
    add(set, &copy, data, events);
}

/// The data of the targets that are ready now, sorted.
fn reported(set: &OwnedFd) -> Vec<u64> {
    let mut events = Vec::with_capacity(64);
    epoll::wait(set, spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
    let mut data: Vec<_> = events.iter().map(|event| { event.data }.u64()).collect();
    data.sort_unstable();
    data
}

/// Number, events and data of each target.
fn shape(set: RawFd) -> Vec<(RawFd, u32, u64)> {
    let file = File::open(format!("/proc/self/fdinfo/{set}")).unwrap();
    let targets = Targets::new(BufReader::new(file));
    let targets = targets.map(|target| target.unwrap());
    let mut shape: Vec<_> = targets.map(|t| (t.tfd, t.events.0, t.data)).collect();
    shape.sort_unstable();
    shape
}

/// Whether an instance has a target by this number whose file is that of a descriptor.
fn watches(set: RawFd, tfd: RawFd, file: RawFd) -> bool {
    let pid = std::process::id() as i32;
    let slot = |toff| Slot {
        efd: set,
        tfd,
        toff,
    };
    let file = Descriptor { pid, fd: file };
    (0..3).any(|toff| kcmp::epoll_tfd(file, pid, slot(toff)).is_ok_and(|order| order.is_eq()))
}

/// An image of this process without what the harness has open.
fn dump() -> Image {
    // Its first thread waits for the test.
    let dump = Dump::new(std::process::id() as i32).even_if_running();
    let mut image = dump.make(None).unwrap();
    image.descriptors.retain(|d| d.number >= FIRST as u32);
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    Image::read(&bytes[..]).unwrap()
}

fn again(had: Vec<OwnedFd>) -> Restored {
    let image = dump();
    drop(had);
    restore(&mut { image })
}

/// Restores the descriptors of an image, and not what only others refer to.
fn restore(image: &mut Image) -> Restored {
    let wanted: Vec<u32> = image.descriptors.iter().map(|d| d.file).collect();
    for (index, file) in image.files.iter_mut().enumerate() {
        let in_message = matches!(file.kind, Kind::EventFd { .. });
        if !wanted.contains(&(index as u32)) && !in_message {
            file.kind = Kind::EventFd {
                count: 0,
                semaphore: false,
            };
            (file.flags, file.locks, file.owner) = (libc::O_RDWR as u32, None, None);
        }
    }
    Restore::new(image).run(None).unwrap()
}

fn items(image: &Image, set: RawFd) -> &[Item] {
    let found = image.descriptors.iter().find(|d| d.number as RawFd == set);
    match &image.files[found.unwrap().file as usize].kind {
        Kind::Epoll { items } => items,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_that_are_closed_or_reused() {
    let Some(_alone) = alone() else { return };
    let (outer, inner) = (set(600), set(601));
    let (one, two) = (counter(602, 0), counter(603, 0));
    add(&outer, &one, 1, EventFlags::IN);
    // One file three times, by two numbers that are closed.
    add_by(&outer, &one, 610, 2, EventFlags::IN);
    add_by(&outer, &one, 611, 3, EventFlags::IN | EventFlags::ONESHOT);
    // By a number that is another file's, that has it as a target, too.
    add_by(&outer, &one, 604, 4, EventFlags::IN);
    let reused = counter(604, 0);
    rustix::io::fcntl_setfd(&reused, FdFlags::empty()).unwrap();
    add(&outer, &reused, 5, EventFlags::IN);
    // By the number of the instance.
    add_by(&inner, &two, 605, 6, EventFlags::PRI | EventFlags::RDHUP);
    let inner_again = at(605, rustix::io::dup(&inner).unwrap());
    drop(inner);
    add(&outer, &inner_again, 7, EventFlags::IN);
    add(&outer, &two, 8, EventFlags::IN | EventFlags::EXCLUSIVE);
    let before = (shape(600), shape(605));

    let had = vec![outer, inner_again, one, two, reused];
    let restored = again(had);
    assert_eq!((shape(600), shape(605)), before);
    for (set, tfd, file) in [
        (600, 602, 602),
        (600, 610, 602),
        (600, 611, 602),
        (600, 604, 602),
        (600, 604, 604),
        (600, 605, 605),
        (600, 603, 603),
        (605, 605, 603),
    ] {
        assert!(watches(set, tfd, file), "{set}: {tfd} is not {file}");
    }
    let fds = &restored.descriptors;
    assert_eq!(
        fds.keys().copied().collect::<Vec<_>>(),
        [600, 602, 603, 604, 605]
    );
    assert!(!watches(600, 602, 604));
    assert_eq!(fcntl_getfd(&fds[&604]).unwrap(), FdFlags::empty());
    assert_eq!(fcntl_getfd(&fds[&605]).unwrap(), FdFlags::CLOEXEC);
    write(&fds[&602], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reported(&fds[&600]), [1, 2, 3, 4]);
    write(&fds[&604], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reported(&fds[&600]), [1, 2, 4, 5]);
}

/// What was reported is not again, and what was due is still.
#[test]
fn edges_and_oneshots() {
    let Some(_alone) = alone() else { return };
    let set = set(600);
    let modes = [
        (EventFlags::IN, false),
        (EventFlags::IN | EventFlags::ET, false),
        (EventFlags::IN | EventFlags::ET, true),
        (EventFlags::IN | EventFlags::ONESHOT, false),
        (EventFlags::IN | EventFlags::ONESHOT, true),
    ];
    let mut files = Vec::new();
    for (data, (events, was_reported)) in modes.into_iter().enumerate() {
        let file = counter(610 + data as RawFd, was_reported.into());
        add(&set, &file, data as u64, events);
        files.push(file);
    }
    assert_eq!(reported(&set), [2, 4]);
    for (file, (_, was_reported)) in files.iter().zip(modes) {
        if !was_reported {
            write(file, &1u64.to_ne_bytes()).unwrap();
        }
    }
    let before = shape(600);
    let image = dump();
    files.push(set);
    drop(files);
    // Without BPF, nobody knows which of the edges is due.
    let guessed: Vec<_> = items(&image, 600)
        .iter()
        .filter_map(|i| i.guessed)
        .collect();
    let own = Resolver::new([std::process::id() as i32]);
    let sees_lists = own.method(Method::Walk).resolve().is_ok();
    assert!(!sees_lists || guessed.is_empty(), "BPF shows what is due");
    let restored = restore(&mut { image });
    assert_eq!(shape(600), before);
    let set = &restored.descriptors[&600];
    if guessed.is_empty() {
        assert_eq!(reported(set), [0, 1, 3]);
    } else {
        assert_eq!(guessed, [true, true]);
        assert_eq!(reported(set), [0, 1, 2, 3]);
    }
    assert_eq!(reported(set), [0]);
    let number = 612;
    write(&restored.descriptors[&number], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reported(set), [0, 2]);
}

/// If nothing is due, it is known that all edges were reported.
#[test]
fn edges_that_were_all_reported() {
    let Some(_alone) = alone() else { return };
    let (set, one, two) = (set(600), counter(601, 1), counter(602, 1));
    let edge = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
    add(&set, &one, 1, edge);
    add(&set, &two, 2, edge);
    assert_eq!(reported(&set), [1, 2]);
    let image = dump();
    assert!(
        items(&image, 600)
            .iter()
            .all(|i| !i.ready && i.guessed.is_none())
    );
    drop((set, one, two));
    let restored = restore(&mut { image });
    assert_eq!(reported(&restored.descriptors[&600]), []);
    write(&restored.descriptors[&601], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reported(&restored.descriptors[&600]), [1]);
}

/// A oneshot that has fired stays silent, whatever happens to its file.
#[test]
fn oneshots_of_every_kind_have_fired() {
    let Some(_alone) = alone() else { return };
    let set_of_all = set(600);
    let (reader, writer) = pipe([601, 602]);
    let inner = set(603);
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).unwrap();
    let timer = at(604, timer);
    let expire = |seconds| {
        let mut setting = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::default(),
        };
        (setting.it_value.tv_sec, setting.it_value.tv_nsec) = (seconds, 1);
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting).unwrap();
    };
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let (near, far) = (at(605, near), at(606, far));
    let ready = counter(607, 1);
    let once = EventFlags::IN | EventFlags::ONESHOT;
    for (file, data) in [
        (&reader, 1),
        (&inner, 2),
        (&timer, 3),
        (&near, 4),
        (&ready, 5),
    ] {
        add(&set_of_all, file, data, once);
    }
    // Also by a number that is closed.
    add_by(&set_of_all, &reader, 620, 6, once | EventFlags::ET);
    add(&inner, &ready, 7, EventFlags::IN);
    write(&writer, b"x").unwrap();
    write(&far, b"x").unwrap();
    expire(0);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(reported(&set_of_all), [1, 2, 3, 4, 5, 6]);
    read(&reader, &mut [0; 8]).unwrap();
    read(&near, &mut [0; 8]).unwrap();
    read(&ready, &mut [0; 8]).unwrap();
    expire(1000);
    let before = (shape(600), shape(603));
    let had = vec![set_of_all, reader, writer, inner, timer, near, far, ready];
    let restored = again(had);
    assert_eq!((shape(600), shape(603)), before);
    let fds = &restored.descriptors;
    let left = timerfd_gettime(&fds[&604]).unwrap().it_value;
    assert!((900..=1000).contains(&left.tv_sec), "{left:?}");
    assert_eq!(rustix::io::ioctl_fionread(&fds[&601]).unwrap(), 0);

    assert_eq!(reported(&fds[&600]), []);
    write(&fds[&602], b"x").unwrap();
    write(&fds[&606], b"x").unwrap();
    write(&fds[&607], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reported(&fds[&600]), []);
    assert_eq!(reported(&fds[&603]), [7]);
    // They can be armed again.
    let data = EventData::new_u64(1);
    epoll::modify(&fds[&600], &fds[&601], data, once).unwrap();
    assert_eq!(reported(&fds[&600]), [1]);
    let mut restored = restored;
    restored.descriptors.remove(&602);
    restored.descriptors.remove(&606);
    assert_eq!(
        reported(&restored.descriptors[&600]),
        [],
        "not even the end"
    );
}

/// What cannot be restored is said before anything is done.
#[test]
fn a_oneshot_that_cannot_fire() {
    let Some(_alone) = alone() else { return };
    let set = set(600);
    let counter = counter(601, 1);
    add(&set, &counter, 1, EventFlags::IN | EventFlags::ONESHOT);
    assert_eq!(reported(&set), [1]);
    let mut image = dump();
    drop((set, counter));
    let found = image.descriptors.iter().find(|d| d.number == 601).unwrap();
    image.files[found.file as usize].kind = Kind::SignalFd { mask: 0xa00 };
    let problems = Restore::new(&image).problems(None);
    let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(
        said[0].starts_with("the target for descriptor 601 of epoll instance f")
            && said[0].contains("cannot be made to fire again (load the kernel module epoll_cr)"),
        "{said:?}"
    );
}

/// A process that has a descriptor as its standard input.
fn holder(fd: &OwnedFd) -> Child {
    let mut command = Command::new("sleep");
    command
        .arg("1000")
        .stdin(Stdio::from(fd.try_clone().unwrap()));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    // It has closed the others when it executes.
    let comm = format!("/proc/{}/comm", child.id());
    while std::fs::read_to_string(&comm).unwrap() != "sleep\n" {
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_file_that_another_process_has() {
    let Some(_alone) = alone() else { return };
    let (set, file) = (set(600), counter(601, 0));
    add(&set, &file, 9, EventFlags::IN);
    let mut child = holder(&file);
    drop(file);
    let before = shape(600);
    assert_eq!(before.len(), 1);
    let restored = again(vec![set]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(shape(600), before);
    let held: Vec<_> = restored.held.values().collect();
    assert_eq!(held.len(), 1);
    write(held[0], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reported(&restored.descriptors[&600]), [9]);
}

fn send_file(to: &OwnedFd, file: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn a_file_that_is_in_a_message() {
    let Some(_alone) = alone() else { return };
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let (near, far) = (at(602, near), at(603, far));
    let (set, file) = (set(600), counter(601, 3));
    add(&set, &file, 9, EventFlags::IN);
    send_file(&far, &file);
    drop(file);
    let before = shape(600);
    let restored = again(vec![set, near, far]);
    assert_eq!(shape(600), before);
    assert!(restored.held.is_empty());
    assert_eq!(reported(&restored.descriptors[&600]), [9]);
}

/// Nobody has it, but a message to a socket that is not dumped.
#[test]
fn a_file_that_nobody_has() {
    let Some(_alone) = alone() else { return };
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let (set, file) = (set(600), counter(601, 3));
    add(&set, &file, 9, EventFlags::IN);
    send_file(&far, &file);
    drop(file);
    let dump = Dump::new(std::process::id() as i32).even_if_running();
    let dump = dump.leave_out(near.as_fd()).leave_out(far.as_fd());
    let mut image = dump.make(None).unwrap();
    image.descriptors.retain(|d| d.number >= FIRST as u32);
    let item = items(&image, 600)[0];
    let file = &image.files[item.file as usize].kind;
    assert!(
        matches!(file, Kind::Other { why } if why.contains("has a descriptor for it")
            && why.ends_with("the kernel module epoll_cr could fetch it")),
        "{file:?}"
    );
    drop(set);
    let problems = Restore::new(&image).problems(None);
    let named = format!("file f{}, which has no descriptor", item.file);
    assert!(problems.iter().any(|p| p.to_string().starts_with(&named)));
}

fn pair(numbers: [RawFd; 2], kind: SocketType) -> (OwnedFd, OwnedFd) {
    let (near, far) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    (at(numbers[0], near), at(numbers[1], far))
}

/// Why a descriptor cannot be restored.
fn why(image: &Image, number: RawFd) -> Option<&str> {
    let found = image
        .descriptors
        .iter()
        .find(|d| d.number as RawFd == number);
    match &image.files[found.unwrap().file as usize].kind {
        Kind::Other { why } => Some(why),
        _ => None,
    }
}

/// Both ends are named, or the other one would lose its peer.
#[test]
fn data_out_of_band_are_refused() {
    let Some(_alone) = alone() else { return };
    for parts in [
        &[(&b"data"[..], false), (b"!", true), (b"more", false)][..],
        &[(b"!", true)],
    ] {
        let (near, far) = pair([600, 601], SocketType::STREAM);
        for &(text, urgent) in parts {
            let flags = match urgent {
                true => SendFlags::OOB,
                false => SendFlags::empty(),
            };
            if send(&far, text, flags) == Err(Errno::OPNOTSUPP) {
                // Without CONFIG_AF_UNIX_OOB there are none.
                return;
            }
        }
        let image = dump();
        let said = why(&image, 600);
        assert_eq!(
            said,
            Some("unix socket: it has data that were sent out of band (MSG_OOB), or their mark")
        );
        drop((near, far));
        let problems = Restore::new(&image).problems(None);
        for number in [600, 601] {
            let start = format!("descriptor {number}, ");
            assert!(problems.iter().any(|p| p.to_string().starts_with(&start)));
        }
    }
    // Nothing is left of it once it was received.
    let (near, far) = pair([600, 601], SocketType::STREAM);
    send(&far, b"!", SendFlags::OOB).unwrap();
    recv(&near, &mut [0; 1][..], RecvFlags::OOB).unwrap();
    send(&far, b"more", SendFlags::empty()).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(
        recv(&near, &mut buffer[..2], RecvFlags::empty()).unwrap().0,
        2
    );
    let restored = again(vec![near, far]);
    let near = &restored.descriptors[&600];
    assert_eq!(
        recv(near, &mut buffer[..], RecvFlags::empty()).unwrap().0,
        2
    );
    assert_eq!(&buffer[..2], b"re");
}

#[test]
fn options_of_sockets_are_kept() {
    let Some(_alone) = alone() else { return };
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let (near, far) = pair([600, 601], kind);
        send(&far, b"some data", SendFlags::empty()).unwrap();
        let second = std::time::Duration::from_secs(1);
        sockopt::set_socket_timeout(&near, sockopt::Timeout::Recv, Some(second)).unwrap();
        sockopt::set_socket_oobinline(&near, true).unwrap();
        let offset = 4i32;
        let set = |fd: &OwnedFd, name, value: i32| {
            // SAFETY: the kernel reads the integer, whose size is given.
            let ret = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    name,
                    (&raw const value).cast(),
                    size_of_val(&value) as libc::socklen_t,
                )
            };
            assert_eq!(ret, 0, "{name}");
        };
        set(&near, libc::SO_PEEK_OFF, offset);
        set(&near, libc::SO_RCVLOWAT, 3);
        set(&far, libc::SO_TIMESTAMP, 1);
        let restored = again(vec![near, far]);
        let get = |number, name| {
            let mut value = 0i32;
            let mut len = size_of_val(&value) as libc::socklen_t;
            let fd = restored.descriptors[&number].as_raw_fd();
            // SAFETY: the kernel writes an integer, whose size is given.
            let ret = unsafe {
                libc::getsockopt(
                    fd,
                    libc::SOL_SOCKET,
                    name,
                    (&raw mut value).cast(),
                    &raw mut len,
                )
            };
            assert_eq!(ret, 0, "{name}");
            value
        };
        assert_eq!(get(600, libc::SO_PEEK_OFF), 4);
        assert_eq!(get(600, libc::SO_RCVLOWAT), 3);
        assert_eq!(get(600, libc::SO_OOBINLINE), 1);
        assert_eq!(
            (get(600, libc::SO_TIMESTAMP), get(601, libc::SO_TIMESTAMP)),
            (0, 1)
        );
        let near = &restored.descriptors[&600];
        let timeout = sockopt::socket_timeout(near, sockopt::Timeout::Recv).unwrap();
        assert_eq!(timeout, Some(second));
        let mut buffer = [0; 16];
        let (len, _) = recv(near, &mut buffer[..], RecvFlags::PEEK).unwrap();
        assert_eq!(&buffer[..len], b" data");
    }
}

#[test]
fn a_connection_that_was_reset() {
    let Some(_alone) = alone() else { return };
    let (near, far) = pair([600, 601], SocketType::STREAM);
    send(&near, b"never received", SendFlags::empty()).unwrap();
    send(&far, b"last words", SendFlags::empty()).unwrap();
    drop(far);
    let restored = again(vec![near]);
    let near = &restored.descriptors[&600];
    let mut buffer = [0; 16];
    let result = |buffer: &mut [u8]| recv(near, buffer, RecvFlags::empty()).map(|got| got.0);
    assert_eq!(result(&mut buffer), Ok(10));
    assert_eq!(result(&mut buffer), Err(Errno::CONNRESET));
    assert_eq!(result(&mut buffer), Ok(0));
}

#[test]
fn memory_has_its_contents_and_seals() {
    let Some(_alone) = alone() else { return };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = at(600, memfd_create("some memory", flags).unwrap());
    ftruncate(&memory, 3 << 20).unwrap();
    pwrite(&memory, b"at the end", (3 << 20) - 10).unwrap();
    fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK).unwrap();
    rustix::fs::fchmod(&memory, Mode::from_raw_mode(0o640)).unwrap();
    seek(&memory, SeekFrom::Start(17)).unwrap();
    // The same memory, opened once more.
    let other = File::open("/proc/self/fd/600").unwrap();
    let other = at(601, other.into());
    // One that cannot be sealed.
    let plain = at(602, memfd_create("plain", MemfdFlags::CLOEXEC).unwrap());
    let seals = fcntl_get_seals(&plain).unwrap();

    let image = dump();
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    assert_eq!(bytes[8..12], 2u32.to_le_bytes());
    assert!(bytes.len() < 1 << 20, "holes were not left out");
    drop((memory, other, plain));
    let restored = restore(&mut { image });
    let fds = &restored.descriptors;
    assert_eq!(
        std::fs::read_link("/proc/self/fd/600").unwrap().to_str(),
        Some("/memfd:some memory (deleted)")
    );
    assert_eq!(seek(&fds[&600], SeekFrom::Current(0)), Ok(17));
    assert_eq!(seek(&fds[&601], SeekFrom::Current(0)), Ok(0));
    assert_eq!(
        fcntl_get_seals(&fds[&600]).unwrap(),
        SealFlags::GROW | SealFlags::SHRINK
    );
    assert_eq!(fcntl_get_seals(&fds[&602]).unwrap(), seals);
    let stat = fstat(&fds[&600]).unwrap();
    assert_eq!((stat.st_mode & 0o7777, stat.st_size), (0o640, 3 << 20));
    assert!(stat.st_blocks < 1 << 11, "a hole was filled");
    pwrite(&fds[&600], b"x", 5).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(pread(&fds[&601], &mut buffer[..], 0), Ok(16));
    assert_eq!(&buffer[..8], b"\0\0\0\0\0x\0\0");
    assert_eq!(pread(&fds[&601], &mut buffer[..], (3 << 20) - 10), Ok(10));
    assert_eq!(&buffer[..10], b"at the end");
    assert_eq!(rustix::io::write(&fds[&601], b"x"), Err(Errno::BADF));
}

#[test]
fn a_socket_that_listens() {
    let Some(_alone) = alone() else { return };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = std::net::TcpListener::bind(address) else {
            // Without IPv6, for instance.
            continue;
        };
        let address = listener.local_addr().unwrap();
        sockopt::set_tcp_nodelay(&listener, true).unwrap();
        sockopt::set_socket_recv_buffer_size(&listener, 20_000).unwrap();
        rustix::net::listen(&listener, 5).unwrap();
        let (set, listener) = (set(601), at(600, listener.into()));
        add(&set, &listener, 9, EventFlags::IN);
        let image = dump();

        // As long as it is there, there can be no other.
        let problems = Restore::new(&image).problems(None);
        let said = format!("it cannot listen at {address} again: Address already in use");
        assert!(
            problems.iter().any(|p| p.why.starts_with(&said)),
            "{problems:?}"
        );

        // Nor is a connection forgotten.
        let client = std::net::TcpStream::connect(address).unwrap();
        let said = format!(
            "TCP socket {address}, listening: it has a connection that was not accepted, and \
             would be lost"
        );
        assert_eq!(why(&dump(), 600), Some(&said[..]));
        drop((set, listener, client));

        let restored = restore(&mut { image });
        let listener = &restored.descriptors[&600];
        assert!(sockopt::tcp_nodelay(listener).unwrap());
        assert_eq!(sockopt::socket_recv_buffer_size(listener), Ok(40_000));
        let set = &restored.descriptors[&601];
        assert_eq!(reported(set), []);
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(reported(set), [9]);
        rustix::net::accept(listener).unwrap();
    }
}

#[test]
fn sockets_are_named() {
    let Some(_alone) = alone() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    let own = client.local_addr().unwrap();
    let client = at(600, client.into());
    let image = dump();
    drop(client);
    assert_eq!(
        why(&image, 600),
        Some(
            &format!(
                "TCP socket {own}, connected to {address}: only pairs of unix sockets can be \
                 recreated"
            )[..]
        )
    );
}

#[test]
fn a_pidfd_of_the_process_itself() {
    let Some(_alone) = alone() else { return };
    let pid = std::process::id() as i32;
    let open = |pid| OwnedFd::from(epoll_targets::pidfd::PidFd::open(pid).unwrap());
    let mut child = holder(&counter(602, 0));
    let (own, other) = (at(600, open(pid)), at(601, open(child.id() as i32)));
    let watcher = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::empty()).unwrap();
    let watcher = at(603, watcher);
    let mask = rustix::fs::inotify::WatchFlags::MODIFY;
    rustix::fs::inotify::add_watch(&watcher, "/etc", mask).unwrap();
    let mut image = dump();
    let said = format!("it refers to process {}, which may have ended", child.id());
    assert_eq!(why(&image, 601), Some(&said[..]));
    assert_eq!(
        why(&image, 603),
        Some("its watches (1, see inotify(7)) cannot be recreated")
    );
    child.kill().unwrap();
    child.wait().unwrap();
    drop((own, other, watcher));
    image.descriptors.retain(|d| d.number == 600);
    let restored = restore(&mut image);
    let info = std::fs::read_to_string("/proc/self/fdinfo/600").unwrap();
    assert!(
        info.lines().any(|line| line == format!("Pid:\t{pid}")),
        "{info}"
    );
    drop(restored);
}
