// SPDX-License-Identifier: GPL-2.0

//! Unix sockets, and the messages in them, which are peeked.

use super::name;
use crate::image::{Buffers, Bytes, Peer, Socket, SocketOption};
use crate::sys;
use crate::types::SocketKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, getpeername, getsockname, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A message and its files.
#[derive(Debug)]
pub struct Received {
    pub data: Bytes,
    pub files: Vec<OwnedFd>,
}

/// Returns the state of a socket, but for its peer and its messages; or why it cannot be
/// recreated.
pub fn describe(socket: BorrowedFd<'_>) -> io::Result<Result<Socket, String>> {
    let other = |why: &str| Ok(Err(format!("{}: {why}", name::of(socket))));
    if sockopt::socket_domain(socket)? != AddressFamily::UNIX {
        return other("only pairs of unix sockets can be recreated");
    }
    if sockopt::socket_acceptconn(socket)? {
        return other("its connections would be lost");
    }
    // An address of nothing but its family.
    let unnamed = |address: SocketAddrAny| address.addr_len() as usize <= size_of::<u16>();
    let peer = match getpeername(socket) {
        Err(Errno::NOTCONN | Errno::CONNRESET) => true,
        peer => peer?.is_none_or(unnamed),
    };
    if !peer || !unnamed(getsockname(socket)?) {
        return other("it, or its peer, has an address");
    }
    let Some(kind) = SocketKind::from_raw(sockopt::socket_type(socket)?.as_raw()) else {
        return other("it is of an unknown type");
    };
    // Nor would they be where they are.
    let urgent =
        kind == SocketKind::Stream && (polled(socket, PollFlags::PRI)? || sys::is_at_mark(socket));
    if urgent {
        return other("it has data that were sent out of band (MSG_OOB), or their mark");
    }
    if sys::has_filter(socket) {
        return other("a filter is attached to it");
    }
    let mut options = Vec::new();
    for (name, usual) in SocketOption::KEPT {
        let value = sys::option(socket, (libc::SOL_SOCKET, name), usual.len())?;
        if let Some(value) = value.filter(|value| value != usual) {
            let name = name as u32;
            let value = Bytes(value);
            options.push(SocketOption::new(name, value));
        }
    }
    let size = |size: usize| size.try_into().unwrap_or(u32::MAX);
    let buffers = Buffers {
        send: size(sockopt::socket_send_buffer_size(socket)?),
        receive: size(sockopt::socket_recv_buffer_size(socket)?),
    };
    Ok(Ok(Socket {
        passcred: sockopt::socket_passcred(socket)?,
        options: (!options.is_empty()).then_some(options),
        reset: polled(socket, PollFlags::ERR)?.then_some(true),
        ..Socket::new(kind, Peer::Nobody, buffers)
    }))
}

/// Returns how many bytes can be received (`SIOCINQ`); of datagrams, in the first.
fn waiting(socket: BorrowedFd<'_>) -> usize {
    ioctl_fionread(socket).map_or(0, |count| count.try_into().unwrap_or(usize::MAX))
}

/// The messages in a socket, peeked one by one.
///
/// The offset for that (`SO_PEEK_OFF`) is put back at the end.
#[derive(Debug)]
pub struct Queue {
    socket: OwnedFd,
    kind: SocketType,
    /// The offset that was set before.
    before: i32,
    buffer: Vec<u8>,
    /// How many bytes were read so far.
    found: usize,
    /// The offset that peeking goes on from.
    offset: usize,
    done: bool,
    /// What was read of a stream, and comes next.
    next: Option<Received>,
    /// Whether a piece of a stream ended where nothing says why.
    has_mark: bool,
}

/// The size of the buffer for a message, in bytes: enough for most.
const BUFFER: usize = 1 << 16;

impl Queue {
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let waiting = waiting(socket.as_fd());
        // A stream is read at once: peeking a message in parts returns its files with
        // each. Most are empty.
        let size = match sockopt::socket_type(&socket)? {
            SocketType::STREAM => waiting,
            _ => BUFFER.max(waiting),
        };
        Self::with_buffer(socket, size)
    }

    fn with_buffer(socket: OwnedFd, size: usize) -> io::Result<Self> {
        let kind = sockopt::socket_type(&socket)?;
        let before = sys::peek_offset(socket.as_fd())?;
        let queue = Self {
            socket,
            kind,
            before,
            buffer: vec![0; size],
            found: 0,
            offset: 0,
            done: false,
            next: None,
            has_mark: false,
        };
        sys::set_peek_offset(queue.socket.as_fd(), 0)?;
        Ok(queue)
    }

    /// The next message, or the next piece of a stream.
    pub fn next(&mut self) -> io::Result<Option<Received>> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let left = waiting(self.socket.as_fd()).saturating_sub(self.found);
        let Some(first) = self.peek()? else {
            return Ok(None);
        };
        if self.kind == SocketType::STREAM {
            if first.files.is_empty() {
                let whole = left.min(self.buffer.len());
                // Unless somebody received some of it meanwhile.
                let is_short =
                    || first.len < whole && waiting(self.socket.as_fd()) >= self.found + whole;
                self.has_mark |= is_short() && !self.splits_senders()?;
            } else if first.len > 1 {
                return self.part(first).map(Some);
            }
        }
        let mut data = self.buffer[..first.len].to_vec();
        let mut more = first.truncated;
        while more {
            // The rest of it, and not all of it with a larger buffer: an empty message
            // that was peeked once is passed over the next time.
            let Some(rest) = self.peek()? else {
                break;
            };
            data.extend(&self.buffer[..rest.len]);
            more = rest.truncated;
        }
        self.found += data.len();
        let data = Bytes(data);
        let files = first.files;
        Ok(Some(Received { data, files }))
    }

    /// Parts a piece of a stream that files come with from what was sent before them.
    fn part(&mut self, piece: sys::Peeked) -> io::Result<Received> {
        let at = |offset: usize| sys::set_peek_offset(self.socket.as_fd(), offset as i32);
        // All but its last byte.
        let mut before = vec![0; piece.len - 1];
        at(self.found)?;
        let without = sys::peek_whole_parts(self.socket.as_fd(), &mut before)?;
        let data = &self.buffer[..piece.len];
        self.found += piece.len;
        at(self.found)?;
        self.offset = self.found;
        let (before, data) = (data[..without].to_vec(), data[without..].to_vec());
        let (data, files) = (Bytes(data), piece.files);
        let message = Received { data, files };
        if before.is_empty() {
            return Ok(message);
        }
        self.next = Some(message);
        let (data, files) = (Bytes(before), Vec::new());
        Ok(Received { data, files })
    }

    /// Whether what different processes sent to a stream is received in parts.
    fn splits_senders(&self) -> io::Result<bool> {
        /// `SO_PASSPIDFD`
        const PASSPIDFD: i32 = 76;

        let is_set = |name| {
            let place = (libc::SOL_SOCKET, name);
            let value = sys::option(self.socket.as_fd(), place, size_of::<i32>())?;
            io::Result::Ok(value.is_some_and(|value| value.iter().any(|&byte| byte != 0)))
        };
        Ok(is_set(libc::SO_PASSCRED)? || is_set(libc::SO_PASSSEC)? || is_set(PASSPIDFD)?)
    }

    /// Whether there is a mark of data that were sent out of band in a stream, and were
    /// received: nothing is received past it at once.
    pub fn has_mark(&self) -> bool {
        self.has_mark
    }

    fn peek(&mut self) -> io::Result<Option<sys::Peeked>> {
        let socket = self.socket.as_fd();
        // Peeking at the end of a stream would take a pending error.
        let is_stream = self.kind == SocketType::STREAM;
        if self.done || is_stream && self.found >= waiting(socket) {
            return Ok(None);
        }
        if self.buffer.is_empty() {
            // A message has arrived since.
            self.buffer.resize(BUFFER, 0);
        }
        let message = loop {
            match sys::peek(socket, &mut self.buffer) {
                // The peer was closed before it had received everything.
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {}
                message => break message,
            }
        };
        let message = match message {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAGAIN | libc::ENOTCONN | libc::EINVAL)
                ) =>
            {
                self.done = true;
                return Ok(None);
            }
            message => message?,
        };
        if message.control_truncated {
            // Some of the files are missing: too many are open.
            return Err(Errno::MFILE.into());
        }
        // A message would be found twice, or for ever.
        self.offset += message.len;
        let offset = sys::peek_offset(socket)?;
        if usize::try_from(offset) != Ok(self.offset) {
            return Err(io::Error::other(
                "another process peeks into it, and has changed its SO_PEEK_OFF",
            ));
        }
        if message.len == 0 && message.files.is_empty() && self.is_end()? {
            self.done = true;
            return Ok(None);
        }
        Ok(Some(message))
    }

    /// Whether no data mean the end, and not an empty message.
    fn is_end(&self) -> io::Result<bool> {
        let socket = self.socket.as_fd();
        Ok(match self.kind {
            SocketType::DGRAM => false,
            // An empty message just before the end is taken for the end, too.
            SocketType::SEQPACKET => hung_up(socket)? && self.found >= waiting(socket),
            _ => true,
        })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // It worked a moment ago, and there is nobody to tell.
        let _ = sys::set_peek_offset(self.socket.as_fd(), self.before);
    }
}

/// Whether nothing more will be sent to the socket.
fn hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    polled(socket, PollFlags::RDHUP)
}

/// Whether a socket has an event.
fn polled(socket: BorrowedFd<'_>, event: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(&socket, event)];
    let now = Timespec::default();
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
    Ok(fds[0].revents().contains(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, recv, send,
        sendmsg, socketpair,
    };
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn received(mut queue: Queue) -> Vec<Received> {
        std::iter::from_fn(|| queue.next().unwrap()).collect()
    }

    fn texts(socket: &OwnedFd) -> Vec<Vec<u8>> {
        let queue = Queue::new(socket.try_clone().unwrap()).unwrap();
        let texts = received(queue).into_iter();
        texts.map(|message| message.data.0).collect()
    }

    #[test]
    fn messages_stay_in_the_queue() {
        for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
            let (near, far) = pair(kind);
            assert!(texts(&near).is_empty());
            send(&far, b"one", SendFlags::empty()).unwrap();
            send(&far, b"two", SendFlags::empty()).unwrap();
            for _ in 0..2 {
                let found = texts(&near);
                if kind == SocketType::STREAM {
                    assert_eq!(found.concat(), b"onetwo");
                } else {
                    assert_eq!(found, [b"one", b"two"]);
                }
            }
            let mut buffer = [0; 3];
            assert_eq!(
                recv(&near, &mut buffer[..], RecvFlags::empty()).unwrap().0,
                3
            );
            assert_eq!(&buffer, b"one");
            assert!(texts(&far).is_empty());
            drop(far);
            assert_eq!(texts(&near), [b"two"]);
        }
    }

    #[test]
    fn a_long_message_is_whole() {
        let (near, far) = pair(SocketType::SEQPACKET);
        sockopt::set_socket_send_buffer_size_force(&far, 1 << 20).ok();
        let long = vec![7; 150_000];
        send(&far, &long, SendFlags::empty()).unwrap();
        send(&far, b"short", SendFlags::empty()).unwrap();
        let queue = Queue::with_buffer(near.try_clone().unwrap(), 1000).unwrap();
        let found = received(queue).into_iter();
        let found: Vec<_> = found.map(|message| message.data.0).collect();
        assert_eq!(found, [&long[..], b"short"]);
        assert_eq!(texts(&near), [&long[..], b"short"]);
    }

    #[test]
    fn empty_messages_are_messages() {
        for kind in [SocketType::DGRAM, SocketType::SEQPACKET] {
            let (near, far) = pair(kind);
            let long = vec![7; 60_000];
            sockopt::set_socket_send_buffer_size_force(&far, 1 << 20).ok();
            let all: [&[u8]; 5] = [b"", b"one", b"", &long[..], b""];
            for text in all {
                send(&far, text, SendFlags::empty()).unwrap();
            }
            assert_eq!(texts(&near), all, "{kind:?}");
        }
        // The end is none, nor is what is between the messages.
        let (near, far) = pair(SocketType::SEQPACKET);
        for text in [&b"one"[..], b"", b"two"] {
            send(&far, text, SendFlags::empty()).unwrap();
        }
        drop(far);
        assert_eq!(texts(&near), [&b"one"[..], b"", b"two"]);
    }

    #[test]
    fn an_error_is_nobodys_message() {
        for kind in [SocketType::STREAM, SocketType::SEQPACKET] {
            let (near, far) = pair(kind);
            send(&far, b"one", SendFlags::empty()).unwrap();
            send(&near, b"never read", SendFlags::empty()).unwrap();
            drop(far);
            assert_eq!(texts(&near), [b"one"], "{kind:?}");
            if kind == SocketType::STREAM {
                assert!(sockopt::socket_error(&near).unwrap().is_err());
            }
        }
    }

    #[test]
    fn looking_goes_on_where_it_was() {
        let (near, far) = pair(SocketType::STREAM);
        send(&far, b"one", SendFlags::empty()).unwrap();
        let offset = |value| sys::set_peek_offset(near.as_fd(), value);
        for before in [-1, 2] {
            offset(before).unwrap();
            assert_eq!(texts(&near), [b"one"]);
            let after = sys::peek_offset(near.as_fd()).unwrap();
            assert_eq!(after, before);
        }
    }

    /// The messages would be read again and again.
    #[test]
    fn who_else_peeks_is_noticed() {
        for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
            let (near, far) = pair(kind);
            for _ in 0..3 {
                send(&far, b"one", SendFlags::empty()).unwrap();
            }
            let mut queue = Queue::with_buffer(near.try_clone().unwrap(), 3).unwrap();
            assert!(queue.next().unwrap().is_some());
            sys::set_peek_offset(near.as_fd(), -1).unwrap();
            let error = queue.next().unwrap_err();
            assert!(
                error.to_string().contains("another process peeks"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_pidfd_of_the_sender_is_closed() {
        /// `SO_PASSPIDFD`
        const PASSPIDFD: i32 = 76;

        let (near, far) = pair(SocketType::STREAM);
        let one = 1i32;
        // SAFETY: the kernel reads the integer, whose size is given.
        let ret = unsafe {
            libc::setsockopt(
                near.as_raw_fd(),
                libc::SOL_SOCKET,
                PASSPIDFD,
                (&raw const one).cast(),
                size_of_val(&one) as libc::socklen_t,
            )
        };
        assert_eq!(ret, 0, "Linux 6.5 has SO_PASSPIDFD");
        send(&far, b"one", SendFlags::empty()).unwrap();
        let peeked = sys::peek(near.as_fd(), &mut [0; 16]).unwrap();
        assert!(peeked.files.is_empty() && !peeked.control_truncated);
        // Other tests open files meanwhile, but pidfds are not among them.
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let pidfds = links.filter(|link| link.to_string_lossy().contains("pidfd"));
        assert_eq!(pidfds.count(), 0);
    }

    #[test]
    fn files_come_along() {
        let (near, far) = pair(SocketType::STREAM);
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        for text in [b"a", b"b"] {
            send_files(&far, text, &reader);
        }
        let found = received(Queue::new(near).unwrap());
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|message| message.files.len() == 1));
    }

    /// Nor with what comes before, however much that is.
    #[test]
    fn files_do_not_come_twice() {
        let (near, far) = pair(SocketType::STREAM);
        if sockopt::set_socket_send_buffer_size_force(&far, 1 << 20).is_err() {
            sockopt::set_socket_send_buffer_size(&far, 1 << 20).unwrap();
        }
        let flags = SendFlags::DONTWAIT;
        assert_eq!(
            send(&far, &vec![1; BUFFER - 10_000], flags),
            Ok(BUFFER - 10_000)
        );
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [reader.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let long = [2; 20_000];
        assert_eq!(
            sendmsg(&far, &[IoSlice::new(&long)], &mut control, flags),
            Ok(20_000)
        );
        send(&far, &[3; 100], flags).unwrap();
        let found = received(Queue::new(near).unwrap());
        let files: usize = found.iter().map(|message| message.files.len()).sum();
        let bytes: usize = found.iter().map(|message| message.data.0.len()).sum();
        assert_eq!((files, bytes), (1, BUFFER + 10_100));
    }

    fn send_files(socket: &OwnedFd, text: &[u8], file: &OwnedFd) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(
            socket,
            &[IoSlice::new(text)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
    }

    /// Whoever reads what was sent before them must not get them, and lose them.
    #[test]
    fn files_come_with_their_bytes() {
        let (near, far) = pair(SocketType::STREAM);
        let (file, _writer) = rustix::pipe::pipe().unwrap();
        for text in [&b"header"[..], b"h"] {
            send(&far, text, SendFlags::empty()).unwrap();
            send_files(&far, b"body", &file);
            send_files(&far, b"x", &file);
        }
        send(&far, b"end", SendFlags::empty()).unwrap();
        for _ in 0..2 {
            let found = received(Queue::new(near.try_clone().unwrap()).unwrap());
            let found = found.iter().map(|m| (&m.data.0[..], m.files.len()));
            let expected: [(&[u8], usize); 7] = [
                (b"header", 0),
                (b"body", 1),
                (b"x", 1),
                (b"h", 0),
                (b"body", 1),
                (b"x", 1),
                (b"end", 0),
            ];
            assert_eq!(found.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn the_mark_of_what_was_received() {
        let (near, far) = pair(SocketType::STREAM);
        let has_mark = || {
            let mut queue = Queue::new(near.try_clone().unwrap()).unwrap();
            while queue.next().unwrap().is_some() {}
            queue.has_mark()
        };
        send(&far, b"data", SendFlags::empty()).unwrap();
        if send(&far, b"!", SendFlags::OOB) == Err(Errno::OPNOTSUPP) {
            use std::io::Write as _;

            let why = "unix sockets have no urgent data (CONFIG_AF_UNIX_OOB)";
            // Past the capture of the test's output: see scripts/lib/results.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
            return;
        }
        send(&far, b"more", SendFlags::empty()).unwrap();
        let mut byte = [0];
        recv(&near, &mut byte[..], RecvFlags::OOB).unwrap();
        assert_eq!(&byte, b"!");
        let mut bytes = [0; 16];
        // Older kernels peek past it.
        let (peeked, _) = recv(&near, &mut bytes[..], RecvFlags::PEEK).unwrap();
        assert_eq!(has_mark(), peeked == 4);
        let mut next = || recv(&near, &mut bytes[..], RecvFlags::empty()).unwrap().0;
        assert_eq!((next(), next()), (4, 4));
        send(&far, b"no", SendFlags::empty()).unwrap();
        send(&far, b"ne", SendFlags::empty()).unwrap();
        assert!(!has_mark());
    }

    #[test]
    fn what_has_an_address_is_refused() {
        let listener = std::os::unix::net::UnixListener::bind(
            std::env::temp_dir().join(format!("epoll-cr-{}", std::process::id())),
        )
        .unwrap();
        let path = listener
            .local_addr()
            .unwrap()
            .as_pathname()
            .unwrap()
            .to_owned();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(describe(listener.as_fd()).unwrap().is_err());
        assert!(describe(client.as_fd()).unwrap().is_err());
        let (near, _far) = pair(SocketType::DGRAM);
        assert_eq!(
            describe(near.as_fd()).unwrap().unwrap().kind,
            SocketKind::Datagram
        );
    }
}
