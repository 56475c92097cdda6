// SPDX-License-Identifier: GPL-2.0

//! Runs the program on targets that no descriptor holds.

mod common;

use common::{Fixture, LSEPOLL, pid, run, say, send, sockets, start};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use serde_json::Value;
use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Without BPF, `/proc` tells what may hold an orphan.
#[test]
fn holders_without_bpf() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let orphan = fixture.orphan();
    let run = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-bpf,-perfmon,-sys_admin", LSEPOLL]);
        command.args(["-p", &pid(), "--json"]).output()
    };
    let begin = Instant::now();
    loop {
        let output = match run() {
            Ok(output) if !output.stdout.is_empty() => output,
            _ => return say("setpriv(1) is missing, or it takes root"),
        };
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["statistics"]["resolver"], "kcmp");
        let targets = report["sets"][0]["targets"].as_array().unwrap();
        let mut targets = targets.iter().filter(|t| t["tfd"] == orphan);
        let target = targets.next().unwrap();
        if target["owner"] == "none" {
            let holders = target["holders"].as_array().unwrap();
            let sender = fixture.keep[1].as_raw_fd();
            let expected = format!("perhaps a message that waits at fd {sender} of process");
            let is_it = |holder: &Value| holder.as_str().unwrap().starts_with(&expected);
            assert!(holders.iter().any(is_it), "{holders:?}");
            return;
        }
        // While something runs, kcmp(2) cannot tell.
        assert_eq!(target["owner"], "unknown");
        if begin.elapsed() > Duration::from_secs(30) {
            return say("other processes run all the time");
        }
    }
}

/// Of those that hold a file, a row names some; JSON has all of them.
#[test]
fn many_holders() {
    const HOLDERS: usize = 12;
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    let file = Fixture::file();
    fixture.add(&file, 0x44);
    for _ in 0..HOLDERS {
        let (sender, receiver) = sockets();
        send(&sender, std::slice::from_ref(&file));
        fixture.keep.extend([sender, receiver]);
    }
    let number = file.as_raw_fd();
    drop(file);
    let Some(report) = report(1) else { return };
    let target = &report["sets"][0]["targets"][0];
    assert_eq!(target["tfd"], number);
    let holders = target["holders"].as_array().unwrap();
    let of_this = format!(" of process {} ", pid());
    let of_this = |holder: &&Value| holder.as_str().unwrap().contains(&of_this);
    assert!(
        holders.iter().filter(of_this).count() >= HOLDERS,
        "{holders:#?}"
    );
    let (_, table, _) = run(&["-p", &pid(), "--wide"]);
    if table.contains("unknown") {
        return say("other processes run all the time");
    }
    let more = format!("and {} more", holders.len() - 8);
    assert!(table.contains(&more), "{more}: {table}");
    assert!(
        table.matches("a message that waits").count() <= 8,
        "{table}"
    );
}

/// Of two targets that look the same, each has its own holder.
#[test]
fn the_same_number_and_data() {
    let Some(_alone) = start() else { return };
    let mut fixture = Fixture::new();
    for data in [1, 2, 2] {
        let (sender, receiver) = sockets();
        let mut number = fcntl_dupfd_cloexec(&receiver, 900).unwrap();
        dup3(Fixture::file(), &mut number, DupFlags::CLOEXEC).unwrap();
        fixture.add(&number, data);
        send(&sender, &[number]);
        fixture.keep.extend([sender, receiver]);
    }
    let Some(found) = holders(3) else { return };
    for (_, holders) in &found {
        let certain = holders
            .iter()
            .filter(|holder| !holder.starts_with("perhaps "));
        assert_eq!((holders.len(), certain.count()), (1, 1), "{holders:?}");
    }
    let different: HashSet<_> = found.iter().map(|(_, holders)| &holders[0]).collect();
    assert_eq!(different.len(), 3, "{found:?}");
}

/// What the program says of this process, once it can tell that so many targets are orphaned.
/// While others run, it cannot if a file has several holders, or its holder is not found.
fn report(orphans: usize) -> Option<Value> {
    let begin = Instant::now();
    loop {
        let (_, json, _) = run(&["-p", &pid(), "--json"]);
        let report: Value = serde_json::from_str(&json).unwrap();
        let targets = report["sets"][0]["targets"].as_array().unwrap();
        let are = |owner: &str| targets.iter().filter(|t| t["owner"] == owner).count();
        if are("none") == orphans {
            return Some(report);
        }
        assert_eq!(are("none") + are("unknown"), orphans, "{targets:#?}");
        if begin.elapsed() > Duration::from_secs(30) {
            say("other processes run all the time");
            return None;
        }
    }
}

/// Data and holders of the orphans, of which there are so many, if BPF can find those.
fn holders(orphans: usize) -> Option<Vec<(String, Vec<String>)>> {
    let report = report(orphans)?;
    if report["statistics"]["resolver"] == "kcmp" {
        say("BPF cannot be used");
        return None;
    }
    let targets = report["sets"][0]["targets"].as_array().unwrap().iter();
    let orphans = targets.filter(|target| target["owner"] == "none");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |target: &Value| {
        let holders = target["holders"].as_array().unwrap().iter();
        (text(&target["data"]), holders.map(text).collect())
    };
    Some(orphans.map(of).collect())
}

/// A program goes on behind what it has written when there was no more room, in the middle
/// of a queue.
#[test]
fn more_in_one_queue_than_is_written_at_once() {
    const FILES: usize = 250;
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let (sender, _receiver) = sockets();
    rustix::net::sockopt::set_socket_send_buffer_size(&sender, 1 << 20).unwrap();
    let (many, last) = (Fixture::file(), Fixture::file());
    fixture.add(&many, 1);
    fixture.add(&last, 2);
    let all: Vec<BorrowedFd<'_>> = vec![many.as_fd(); FILES];
    for _ in 0..200 {
        send(&sender, &all);
    }
    send(&sender, &[last]);
    drop(many);
    let Some(found) = holders(2) else { return };
    for (_, holders) in &found {
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert!(
            holders[0].starts_with("a message that waits at fd "),
            "{holders:?}"
        );
    }
}

/// More watched files in one socket's messages than an iterator can tell of at a time,
/// and then than a program looks at.
#[test]
fn many_orphans_in_one_queue() {
    const MANY: usize = 200;
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let (sender, _receiver) = sockets();
    for round in 0..3 {
        let files: Vec<OwnedFd> = (0..MANY).map(|_| Fixture::file()).collect();
        files.iter().for_each(|file| fixture.add(file, round));
        send(&sender, &files);
    }
    let count = |found: &[(String, Vec<String>)], start: &str| {
        let firsts = found.iter().map(|(_, holders)| &holders[0]);
        firsts.filter(|holder| holder.starts_with(start)).count()
    };
    let known = "a message that waits at fd ";
    let Some(found) = holders(3 * MANY) else {
        return;
    };
    assert_eq!(count(&found, known), 3 * MANY);

    // Each takes some hundred bytes.
    rustix::net::sockopt::set_socket_send_buffer_size(&sender, 1 << 20).unwrap();
    for _ in 0..260 {
        rustix::io::write(&sender, b"x").unwrap();
    }
    let file = Fixture::file();
    fixture.add(&file, 0x55);
    send(&sender, &[file]);
    let Some(found) = holders(3 * MANY + 1) else {
        return;
    };
    assert_eq!(count(&found, known), 3 * MANY);
    assert_eq!(count(&found, "perhaps a message that waits at fd "), 1);
}

/// Messages on connections that nobody has accepted, the first of which has none.
#[test]
fn a_connection_that_was_not_accepted() {
    const FILES: u32 = 100;
    let Some(_alone) = start() else { return };
    let fixture = Fixture::new();
    let address = SocketAddr::from_abstract_name(format!("lsepoll-{}", pid())).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let mut clients = Vec::new();
    for round in 0..4 {
        let client = OwnedFd::from(UnixStream::connect_addr(&address).unwrap());
        if round > 0 {
            let files: Vec<OwnedFd> = (0..FILES).map(|_| Fixture::file()).collect();
            files.iter().for_each(|file| fixture.add(file, round));
            send(&client, &files);
        }
        clients.push(client);
    }
    let Some(found) = holders(3 * FILES as usize) else {
        return;
    };
    let expected = format!("a message that waits at fd {} of ", listener.as_raw_fd());
    for (_, holders) in &found {
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert!(holders[0].starts_with(&expected), "{holders:?}");
    }
}

/// The holders of the only orphan, each of which is in this process.
fn holders_here() -> Option<Vec<String>> {
    let found = holders(1)?;
    let (_, holders) = found.into_iter().next().unwrap();
    let end = format!(" of process {} (", pid());
    assert!(
        holders.iter().all(|holder| holder.contains(&end)),
        "{holders:?}"
    );
    Some(holders)
}

/// A new io_uring, or why there is none.
fn ring() -> Result<OwnedFd, String> {
    // A `struct io_uring_params`.
    let mut parameters = [0u32; 30];
    // SAFETY: It reads and writes the parameters, and opens a descriptor, which is ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 2, parameters.as_mut_ptr());
        if fd >= 0 {
            return Ok(OwnedFd::from_raw_fd(fd as RawFd));
        }
    }
    let error = std::io::Error::last_os_error();
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.unwrap_or_else(|_| "missing".into());
    let disabled = disabled.trim();
    Err(format!(
        "io_uring: {error} (kernel.io_uring_disabled is {disabled})"
    ))
}

#[test]
fn a_registered_file() {
    const IORING_REGISTER_FILES: u32 = 2;
    let Some(_alone) = start() else { return };
    let ring = match ring() {
        Ok(ring) => ring,
        Err(why) => return say(&why),
    };
    let fixture = Fixture::new();
    let file = Fixture::file();
    fixture.add(&file, 0x55);
    // The first one is nothing.
    let files = [-1, file.as_raw_fd()];
    // SAFETY: There are as many descriptors as it is told.
    let result = unsafe {
        let (fd, files) = (ring.as_raw_fd(), files.as_ptr());
        libc::syscall(
            libc::SYS_io_uring_register,
            fd,
            IORING_REGISTER_FILES,
            files,
            2,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    drop(file);
    let Some(holders) = holders_here() else {
        return;
    };
    let expected = format!(
        "a registered file of the io_uring fd {} of ",
        ring.as_raw_fd()
    );
    // Before Linux 6.13, only /proc shows it.
    assert!(holders[0].contains(&expected), "{holders:?}");
    assert_eq!(holders.len(), 1, "{holders:?}");
}

/// A software event that counts nothing, with its ring buffer.
fn perf_event() -> std::io::Result<OwnedFd> {
    // A `struct perf_event_attr`: type and size, then the event.
    let mut attributes = [0u64; 16];
    attributes[0] = 1 | ((size_of_val(&attributes) as u64) << 32);
    attributes[1] = 9;
    // SAFETY: It reads the attributes, and opens a descriptor, which is ours.
    unsafe {
        let attributes = attributes.as_mut_ptr();
        let fd = libc::syscall(libc::SYS_perf_event_open, attributes, 0, -1, -1, 8);
        match fd {
            0.. => Ok(OwnedFd::from_raw_fd(fd as RawFd)),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

fn page() -> usize {
    // SAFETY: It takes an integer.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// A packet socket, with a ring of one frame.
fn packet_socket() -> std::io::Result<OwnedFd> {
    // A `struct tpacket_req`: a block of one page, and one frame in it.
    let ring = [page() as u32, 1, page() as u32, 1];
    // SAFETY: It opens a descriptor, which is ours, and reads so many bytes of the ring.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let (ring, size) = (ring.as_ptr().cast(), size_of_val(&ring) as u32);
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_RX_RING);
        match libc::setsockopt(fd, level, option, ring, size) {
            0 => Ok(socket),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// What keeps a mapping of a file whose descriptor was closed.
#[test]
fn a_mapping() {
    let Some(_alone) = start() else { return };
    let kinds = [
        (
            "a perf event",
            perf_event().map_err(|error| error.to_string()),
            2,
        ),
        (
            "a packet socket",
            packet_socket().map_err(|error| error.to_string()),
            1,
        ),
        ("an io_uring", ring(), 1),
    ];
    for (kind, file, pages) in kinds {
        let file = match file {
            Ok(file) => file,
            Err(why) => {
                say(&format!("there is no {kind}: {why}"));
                continue;
            }
        };
        let fixture = Fixture::new();
        fixture.add(&file, 0x55);
        let size = pages * page();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: The mapping is new, and nobody uses it.
        let address = unsafe {
            let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
            libc::mmap(null, size, rights, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(
            address,
            libc::MAP_FAILED,
            "{kind}: {}",
            std::io::Error::last_os_error()
        );
        drop(file);
        let holders = holders_here();
        // SAFETY: As above.
        assert_eq!(unsafe { libc::munmap(address, size) }, 0);
        let Some(holders) = holders else { return };
        let expected = format!("a mapping at {:#x} of process {} (", address.addr(), pid());
        assert!(holders[0].starts_with(&expected), "{kind}: {holders:?}");
        assert_eq!(holders.len(), 1, "{kind}: {holders:?}");
    }
}
