// SPDX-License-Identifier: GPL-2.0

//! Dumps and restores the epoll instances of this process as on a kernel without the
//! device.

mod process;

use epoll_targets::proc::{Stat, State};
use epoll_targets::resolve::{Method, Resolver};
use libepollcr::dump::{Dump, Error};
use libepollcr::image::Kind;
use libepollcr::restore::Restore;
use process::*;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{
    MemfdFlags, Mode, SealFlags, SeekFrom, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
    memfd_create, seek,
};
use rustix::io::{Errno, FdFlags, fcntl_getfd, pread, pwrite, read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_gettime,
    timerfd_settime,
};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

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

/// Each that this kernel has is named as what it is: none of them has a path.
#[test]
fn memory_and_queues_that_are_not_read() {
    let Some(_alone) = alone() else { return };
    let opened = |fd: libc::c_long| {
        // SAFETY: A system call has just opened it, and nobody else knows of it.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    };
    let name = format!("/libepollcr-{}", std::process::id());
    let name = std::ffi::CString::new(name).unwrap();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: These take numbers, a string, and no attributes.
    let (secret, queue) = unsafe {
        let attributes = std::ptr::null_mut::<libc::mq_attr>();
        let secret = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
        let queue = libc::mq_open(name.as_ptr(), flags, 0o600, attributes);
        libc::mq_unlink(name.as_ptr());
        (opened(secret), opened(queue.into()))
    };
    let huge = memfd_create("huge", MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC).ok();
    let files = [
        (
            secret,
            "it is secret memory (memfd_secret(2)), which only its own process can read",
        ),
        (
            queue,
            "it is a POSIX message queue, and its messages would be lost",
        ),
        (
            huge,
            "it is memory of huge pages (memfd_create(2)), which is not read",
        ),
    ];
    let files = files.into_iter().zip(600..);
    let files = files.filter_map(|((fd, words), n)| Some((at(n, fd?), words)));
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        return skip("this kernel has neither secret memory nor message queues nor huge pages");
    }
    let image = dump();
    for (fd, words) in &files {
        assert_eq!(why(&image, fd.as_raw_fd()), Some(*words));
    }
}

#[test]
fn a_pidfd_of_the_process_itself() {
    let Some(_alone) = alone() else { return };
    let pid = std::process::id() as i32;
    let open = |pid| OwnedFd::from(epoll_targets::pidfd::PidFd::open(pid).unwrap());
    let mut child = holder(&counter(602, 0));
    let (own, other) = (at(600, open(pid)), at(601, open(child.id() as i32)));
    let mut image = dump();
    let said = format!("it refers to process {}, which may have ended", child.id());
    assert_eq!(why(&image, 601), Some(&said[..]));
    child.kill().unwrap();
    child.wait().unwrap();
    drop((own, other));
    image.descriptors.retain(|d| d.number == 600);
    let restored = restore(&mut image);
    let info = std::fs::read_to_string("/proc/self/fdinfo/600").unwrap();
    assert!(
        info.lines().any(|line| line == format!("Pid:\t{pid}")),
        "{info}"
    );
    drop(restored);
}

/// Its descriptors are not found by its pid, so that an image would have none.
#[test]
fn a_process_without_its_first_thread() {
    // SAFETY: The child runs no code of other threads, whose locks it may have: what it
    // calls after this takes only those that fork() takes care of.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(600)));
        // SAFETY: It ends this thread alone, and never returns.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    while Stat::of(pid).unwrap().state != State::Zombie {
        std::thread::yield_now();
    }
    let made = Dump::new(pid).even_if_running().make(None);
    // SAFETY: It is our child, which nobody else waits for.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    assert!(matches!(made, Err(Error::FirstThreadEnded)), "{made:?}");
}
