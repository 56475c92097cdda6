// SPDX-License-Identifier: GPL-2.0

//! Addresses of sockets, from `/proc/PID/net` and sock_diag(7).

use epoll_cli::text::quoted;
use epoll_targets::unix_diag::{self, Connection};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The files with addresses and ports; `raw` has protocols for ports.
const INET: [&str; 6] = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"];

/// Addresses by inode, of the network namespaces that were asked about.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The namespace of each process.
    namespaces: HashMap<i32, String>,
    /// By namespace.
    addresses: HashMap<String, HashMap<u64, String>>,
}

impl Sockets {
    /// The addresses of the socket that a link names, as the process sees it.
    pub fn addresses(&mut self, pid: i32, link: &str) -> Option<String> {
        let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
        let inode: u64 = inode.parse().ok()?;
        let of = self.namespaces.entry(pid);
        let of = of.or_insert_with(|| namespace(pid).unwrap_or_else(|| pid.to_string()));
        let namespace = of.clone();
        let known = self.addresses.entry(namespace).or_insert_with(|| read(pid));
        known.get(&inode).cloned()
    }
}

/// The network namespace of a process.
fn namespace(pid: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(link.display().to_string())
}

fn read(pid: i32) -> HashMap<u64, String> {
    let mut addresses = HashMap::new();
    for name in INET {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
        let protocol = name.trim_end_matches('6');
        addresses.extend(text.lines().skip(1).filter_map(|line| inet(protocol, line)));
    }
    // Only those of our own namespace can be asked for.
    let is_ours = namespace(pid).is_some_and(|of| Some(of) == namespace(std::process::id() as i32));
    let sockets = is_ours.then(|| unix_diag::sockets().ok()).flatten();
    let names = match &sockets {
        Some(sockets) => names(sockets),
        None => {
            let text = fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
            names_shown(&text)
        }
    };
    addresses.extend(connected(&names, &sockets.unwrap_or_default()));
    for (name, column) in [("packet", 8), ("netlink", 9)] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
        let inodes = text.lines().skip(1).filter_map(|line| {
            let inode = line.split_whitespace().nth(column)?;
            Some((inode.parse().ok()?, name.to_owned()))
        });
        addresses.extend(inodes);
    }
    addresses
}

/// A line of `/proc/net/tcp` and its like: the inode and the addresses.
fn inet(protocol: &str, line: &str) -> Option<(u64, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, peer) = (address(words.get(1)?)?, address(words.get(2)?)?);
    let inode: u64 = words.get(9)?.parse().ok()?;
    // A closed one has no inode.
    if inode == 0 {
        return None;
    }
    let text = match peer.port() {
        0 => format!("{protocol} {local}"),
        _ => format!("{protocol} {local} to {peer}"),
    };
    Some((inode, text))
}

/// An address as the kernel writes it: words of 32 bits in its own byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !host.is_ascii() || host.len() % 8 != 0 {
        return None;
    }
    let words = host.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let host: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(host, port))
}

/// The names that sock_diag(7) tells.
fn names(sockets: &HashMap<u32, Connection>) -> HashMap<u64, String> {
    let names = sockets.iter().filter_map(|(&inode, socket)| {
        let name = match socket.name.as_deref()? {
            [0, rest @ ..] => [b"@", rest].concat(),
            path => path.to_owned(),
        };
        Some((inode.into(), quoted(&name)))
    });
    names.collect()
}

/// The names in `/proc/net/unix`. A name can have a newline in it, and what looks like the
/// line of another socket, or of one that has no name: then there are two lines of that.
fn names_shown(text: &[u8]) -> HashMap<u64, String> {
    let lines = text.split(|&byte| byte == b'\n').skip(1);
    let mut names: HashMap<u64, Option<String>> = HashMap::new();
    for (inode, name) in lines.filter_map(unix) {
        let known = names.entry(inode);
        known.and_modify(|known| *known = None).or_insert(name);
    }
    let names = names.into_iter();
    names
        .filter_map(|(inode, name)| Some((inode, name?)))
        .collect()
}

/// A line of `/proc/net/unix`: the inode, and the name if it has one.
fn unix(line: &[u8]) -> Option<(u64, Option<String>)> {
    // Seven columns, and the name, which may have blanks.
    let mut rest = line;
    let mut inode: &[u8] = &[];
    for _ in 0..7 {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|byte| *byte == b' ');
        let end = end.unwrap_or(rest.len());
        (inode, rest) = rest.split_at(end);
    }
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    let name = rest.strip_prefix(b" ").filter(|name| !name.is_empty());
    Some((inode, name.map(quoted)))
}

/// The names of unix sockets and of their peers, or what their links would be.
fn connected(
    names: &HashMap<u64, String>,
    peers: &HashMap<u32, Connection>,
) -> HashMap<u64, String> {
    let mut texts: HashMap<u64, String> = HashMap::new();
    for (&inode, name) in names {
        texts.insert(inode, format!("unix {name}"));
    }
    for (&inode, connection) in peers {
        let Some(peer) = connection.peer.map(u64::from) else {
            continue;
        };
        let text = texts.entry(inode.into()).or_insert_with(|| "unix".into());
        match (peer, names.get(&peer)) {
            (0, _) => text.push_str(", peer closed"),
            (_, Some(name)) => *text += &format!(" to {name}"),
            _ => *text += &format!(" to socket:[{peer}]"),
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_the_kernel_writes_them() {
        let text = |text: &str| address(text).map(|address| address.to_string());
        // Written in the byte order of the machine.
        let v4 = format!("{:08X}:1F90", u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(text(&v4).as_deref(), Some("127.0.0.1:8080"));
        let last = u32::from_ne_bytes([0, 0, 0, 1]);
        let v6 = format!("000000000000000000000000{last:08X}:0035");
        assert_eq!(text(&v6).as_deref(), Some("[::1]:53"));
        assert_eq!(text("0100007:1F90"), None);
        assert_eq!(text("é"), None);
    }

    #[test]
    fn a_listener_has_no_peer() {
        let (local, any) = (u32::from_ne_bytes([10, 0, 0, 1]), 0);
        let line = |peer: &str, inode: u32| {
            format!(
                "   0: {local:08X}:0050 {peer} 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 x"
            )
        };
        let listener = line(&format!("{any:08X}:0000"), 77);
        assert_eq!(inet("tcp", &listener), Some((77, "tcp 10.0.0.1:80".into())));
        let connected = line(&format!("{local:08X}:0051"), 78);
        let expected = (78, "tcp 10.0.0.1:80 to 10.0.0.1:81".into());
        assert_eq!(inet("tcp", &connected), Some(expected));
        assert_eq!(inet("tcp", &line(&format!("{any:08X}:0000"), 0)), None);
    }

    #[test]
    fn names_of_unix_sockets_may_have_blanks() {
        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 4711 /run/a b";
        assert_eq!(unix(line), Some((4711, Some("\"/run/a b\"".into()))));
        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01     1 @/tmp/x";
        assert_eq!(unix(line), Some((1, Some("@/tmp/x".into()))));
        let unnamed = b"0000000000000000: 00000002 00000000 00010000 0001 01 4711";
        assert_eq!(unix(unnamed), Some((4711, None)));
        assert_eq!(unix(b"name"), None);
    }

    /// The name of one socket cannot be that of another.
    #[test]
    fn names_with_newlines() {
        let line = |inode, name| {
            format!("0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {name}\n")
        };
        let forged = line(1, "/tmp/x\n") + line(2, "/FAKE").trim_end();
        let text = |rest: &str| format!("Num RefCount Protocol Flags Type St Inode Path\n{rest}");
        for real in [
            line(2, "/run/real"),
            line(2, "").trim_end().to_owned() + "\n",
        ] {
            let all = text(&format!("{forged}\n{real}{}", line(3, "/run/other")));
            let names = names_shown(all.as_bytes());
            assert_eq!(names.get(&2), None);
            assert_eq!(names[&3], "/run/other");
        }
        let socket = |name: &[u8]| {
            let mut socket = Connection::default();
            socket.name = Some(name.to_vec());
            socket
        };
        let sockets = HashMap::from([(1, socket(b"\0x\ny")), (2, socket(b"/run/a"))]);
        let names = names(&sockets);
        assert!(
            names[&1].starts_with("\"@x") && !names[&1].contains('\n'),
            "{}",
            names[&1]
        );
        assert_eq!(names[&2], "/run/a");
    }

    #[test]
    fn peers_of_unix_sockets() {
        use rustix::fs::fstat;
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let [a, b] = [&a, &b].map(|socket| fstat(socket).unwrap().st_ino);
        let Ok(peers) = unix_diag::sockets() else {
            eprintln!("skipped: this kernel does not tell the peers of unix sockets");
            return;
        };
        let text = |names: &[(u64, &str)]| {
            let names = names.iter().map(|&(inode, name)| (inode, name.to_owned()));
            connected(&names.collect(), &peers).remove(&a)
        };
        assert_eq!(text(&[]), Some(format!("unix to socket:[{b}]")));
        assert_eq!(text(&[(b, "/run/x")]).as_deref(), Some("unix to /run/x"));
        let both = [(a, "/run/y"), (b, "/run/x")];
        assert_eq!(text(&both).as_deref(), Some("unix /run/y to /run/x"));
    }
}
