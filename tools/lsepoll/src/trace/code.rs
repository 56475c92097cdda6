// SPDX-License-Identifier: GPL-2.0

//! Places in the code of processes: unwinds stacks, names functions and lines.
//!
//! A process may have ended when its stack is to be shown. So its mappings are read
//! when it adds its first target, and the files that are mapped are kept open.

use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer, source};
use epoll_cli::text::printable;
use epoll_targets::trace::Stack;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder as _};
use object::elf::PF_X;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ReadCache, SegmentFlags};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How many frames are shown.
const FRAMES: usize = 32;

/// Where the source of libraries is: of the C library, of Rust's, and of crates.
const LIBRARIES: [&str; 5] = [
    "/usr/",
    "/sysdeps/",
    "/rustc/",
    "/library/std/",
    "/registry/src/",
];

/// How the files of C libraries begin. They may have come with lines of source, too.
const C_LIBRARIES: [&str; 5] = ["libc.", "libc-", "libpthread", "ld-", "ld.so"];

/// The mappings of how many processes are kept.
const PROCESSES: usize = 1024;

type Bytes = Rc<[u8]>;

/// A file that is mapped as code.
struct Code {
    /// What the process calls it.
    path: PathBuf,
    /// It stays open: the path may be gone, or of another mount namespace.
    file: File,
    /// Of each segment of code: where it is in the file, and its address before it is
    /// relocated.
    segments: Vec<(Range<u64>, u64)>,
    sections: ExplicitModuleSectionInfo<Bytes>,
}

impl Code {
    fn read(path: PathBuf, file: File) -> io::Result<Self> {
        let cache = ReadCache::new(file.try_clone()?);
        let elf = ElfFile64::<object::Endianness, _>::parse(&cache).map_err(io::Error::other)?;
        let is_code = |flags| matches!(flags, SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0);
        let segments = elf.segments().filter(|segment| is_code(segment.flags()));
        let segments = segments.map(|segment| {
            let (offset, size) = segment.file_range();
            (offset..offset.saturating_add(size), segment.address())
        });
        let segments = segments.collect();
        let section = |name: &str| {
            let section = elf.section_by_name(name)?;
            let range = section.address()..section.address().saturating_add(section.size());
            Some((range, Bytes::from(section.data().ok()?)))
        };
        let mut sections = ExplicitModuleSectionInfo::default();
        (sections.text_svma, sections.text) = section(".text").unzip();
        (sections.eh_frame_svma, sections.eh_frame) = section(".eh_frame").unzip();
        (sections.eh_frame_hdr_svma, sections.eh_frame_hdr) = section(".eh_frame_hdr").unzip();
        sections.got_svma = section(".got").map(|(range, _)| range);
        Ok(Self {
            path,
            file,
            segments,
            sections,
        })
    }

    /// By which address minus offset in the file a mapping is moved.
    fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let segments = self.segments.iter();
        let mut holding = segments.filter(|(range, _)| {
            // A mapping begins at a page.
            offset < range.end && offset + 4096 > range.start
        });
        let (range, address) = holding.next_back()?;
        let at_start = address.wrapping_sub(range.start).wrapping_add(offset);
        Some(start.wrapping_sub(at_start))
    }
}

struct Mapping {
    range: Range<u64>,
    offset: u64,
    code: Option<Rc<Code>>,
    name: String,
}

/// What is known of a process.
struct Process {
    mappings: Vec<Mapping>,
    unwinder: UnwinderX86_64<Bytes>,
    cache: CacheX86_64,
    /// When it was last of use.
    used: u64,
}

impl Process {
    fn mapping(&self, address: u64) -> Option<&Mapping> {
        let mut mappings = self.mappings.iter();
        mappings.find(|mapping| mapping.range.contains(&address))
    }
}

/// A place in the code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The function, or the address if its name is not known.
    pub function: String,
    /// File and line.
    pub line: Option<String>,
    /// The file that is mapped.
    pub module: String,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.line {
            Some(line) => write!(f, "{} at {line}", self.function),
            None if self.module.is_empty() => write!(f, "{}", self.function),
            None => write!(f, "{} in {}", self.function, self.module),
        }
    }
}

/// A stack as far as it could be unwound, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trace(pub Vec<Frame>);

impl Trace {
    /// The place that a reader looks for: the innermost with a line of source, of the
    /// program rather than of a library; or that called a library; or the innermost.
    pub fn place(&self) -> Option<&Frame> {
        let frames = &self.0;
        let is_library = |line: &String| LIBRARIES.iter().any(|library| line.contains(library));
        let is_c = |module: &str| {
            C_LIBRARIES
                .iter()
                .any(|library| module.starts_with(library))
        };
        let mut by_line = frames.iter().filter(|frame| frame.line.is_some());
        let mut own = by_line.clone();
        let own = own.find(|f| !is_c(&f.module) && !f.line.as_ref().is_some_and(is_library));
        let by_line = own.or_else(|| by_line.find(|frame| !is_c(&frame.module)));
        let first = frames.first();
        let caller = || {
            frames
                .iter()
                .find(|f| Some(&f.module) != first.map(|f| &f.module))
        };
        by_line.or_else(caller).or(first)
    }
}

/// Resolves stacks.
pub struct Resolver {
    processes: HashMap<i32, Process>,
    /// By device and inode.
    code: HashMap<(u64, u64), Option<Rc<Code>>>,
    symbolizer: Symbolizer,
    clock: u64,
}

impl Resolver {
    pub fn new() -> Self {
        Self {
            processes: HashMap::new(),
            code: HashMap::new(),
            // See demangled().
            symbolizer: Symbolizer::builder().enable_demangling(false).build(),
            clock: 0,
        }
    }

    /// Reads the mappings of a process; keeps what is known if it has none any more.
    pub fn look_at(&mut self, pid: i32) {
        let Some(mappings) = self.mappings(pid).filter(|mappings| !mappings.is_empty()) else {
            return;
        };
        let mut unwinder = UnwinderX86_64::new();
        for mapping in &mappings {
            let Some(code) = &mapping.code else { continue };
            let Some(bias) = code.bias(mapping.range.start, mapping.offset) else {
                continue;
            };
            let name = mapping.name.clone();
            let (range, sections) = (mapping.range.clone(), code.sections.clone());
            unwinder.add_module(Module::new(name, range, bias, sections));
        }
        self.clock += 1;
        let process = Process {
            mappings,
            unwinder,
            cache: CacheX86_64::new(),
            used: self.clock,
        };
        self.processes.insert(pid, process);
        if self.processes.len() > PROCESSES {
            let oldest = self
                .processes
                .iter()
                .min_by_key(|(_, process)| process.used);
            if let Some(&oldest) = oldest.map(|(pid, _)| pid) {
                self.processes.remove(&oldest);
            }
            self.code
                .retain(|_, code| code.as_ref().is_none_or(|code| Rc::strong_count(code) > 1));
        }
    }

    /// Reads the mappings of a process that is not known.
    pub fn look_at_once(&mut self, pid: i32) {
        if !self.processes.contains_key(&pid) {
            self.look_at(pid);
        }
    }

    /// What a process has mapped as code.
    fn mappings(&mut self, pid: i32) -> Option<Vec<Mapping>> {
        let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
        let maps = String::from_utf8_lossy(&maps).into_owned();
        let mappings = maps.lines().filter_map(|line| {
            let line = MapsLine::parse(line)?;
            let code = line.is_file().then(|| self.code(pid, &line)).flatten();
            Some(Mapping {
                range: line.range,
                offset: line.offset,
                code,
                name: line.path.to_owned(),
            })
        });
        Some(mappings.collect())
    }

    fn code(&mut self, pid: i32, line: &MapsLine<'_>) -> Option<Rc<Code>> {
        let Range { start, end } = line.range;
        // This file is the one that is mapped, whatever the path means by now.
        let path = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let identity = (metadata.dev(), metadata.ino());
        let code = self.code.entry(identity);
        code.or_insert_with(|| {
            let code = Code::read(line.path.into(), file);
            code.ok().map(Rc::new)
        })
        .clone()
    }

    /// The frames of a stack.
    pub fn resolve(&mut self, pid: i32, stack: &Stack) -> Trace {
        if stack.ip == 0 {
            return Trace::default();
        }
        let known = self
            .processes
            .get(&pid)
            .is_some_and(|p| p.mapping(stack.ip).is_some());
        if !known {
            self.look_at(pid);
        }
        let mut addresses = self.unwind(pid, stack);
        let is_mapped = |this: &Self, address: &u64| {
            let process = this.processes.get(&pid);
            process.is_some_and(|process| process.mapping(*address).is_some())
        };
        // A library may have been loaded since.
        if known && !addresses.iter().all(|address| is_mapped(self, address)) {
            self.look_at(pid);
            addresses = self.unwind(pid, stack);
        }
        let mut frames = Vec::new();
        for address in addresses {
            // What a wrong step of the unwinder yields.
            if !frames.is_empty() && !is_mapped(self, &address) {
                break;
            }
            self.name(pid, address, &mut frames);
        }
        frames.truncate(FRAMES);
        Trace(frames)
    }

    /// The addresses of the calls, innermost first.
    fn unwind(&mut self, pid: i32, stack: &Stack) -> Vec<u64> {
        self.clock += 1;
        let Some(process) = self.processes.get_mut(&pid) else {
            return vec![stack.ip];
        };
        process.used = self.clock;
        let mut read = |address: u64| -> Result<u64, ()> {
            let at = usize::try_from(address.wrapping_sub(stack.sp)).map_err(drop)?;
            let bytes = stack.bytes.get(at..at.saturating_add(8)).ok_or(())?;
            bytes.try_into().map(u64::from_ne_bytes).map_err(drop)
        };
        let registers = UnwindRegsX86_64::new(stack.ip, stack.sp, stack.bp);
        let Process {
            unwinder, cache, ..
        } = process;
        let mut frames = unwinder.iter_frames(stack.ip, registers, cache, &mut read);
        let mut addresses = Vec::new();
        while addresses.len() < FRAMES {
            match frames.next() {
                Ok(Some(frame)) => addresses.push(frame.address_for_lookup()),
                _ => break,
            }
        }
        // The instruction that called the kernel is before the one it returns to.
        if let Some(first) = addresses.first_mut() {
            *first = first.saturating_sub(1);
        }
        addresses
    }

    /// Names the functions at an address: those that were inlined come first.
    fn name(&self, pid: i32, address: u64, frames: &mut Vec<Frame>) {
        let unknown = |module: &str| Frame {
            function: format!("{address:#x}"),
            line: None,
            module: printable(module),
        };
        let mapping = self.processes.get(&pid).and_then(|p| p.mapping(address));
        let Some(mapping) = mapping else {
            return frames.push(unknown(""));
        };
        let symbol = match &mapping.code {
            Some(code) => {
                let offset = address - mapping.range.start + mapping.offset;
                let source = source::Elf::new(readable(code));
                let source = source::Source::Elf(source);
                self.symbolizer
                    .symbolize_single(&source, Input::FileOffset(offset))
            }
            // Made at run time, or the vDSO.
            None => {
                let source = source::Process::new((pid as u32).into());
                let source = source::Source::Process(source);
                self.symbolizer
                    .symbolize_single(&source, Input::AbsAddr(address))
            }
        };
        let module = Path::new(&mapping.name).file_name();
        let module = module.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let Ok(Symbolized::Sym(symbol)) = symbol else {
            return frames.push(unknown(&module));
        };
        named(&symbol, &module, frames);
    }
}

fn named(symbol: &Sym<'_>, module: &str, frames: &mut Vec<Frame>) {
    let frame = |name: &str, code: Option<&CodeInfo<'_>>| {
        let line = code.and_then(|code| {
            let path = code.to_path();
            Some(printable(&format!("{}:{}", path.display(), code.line?)))
        });
        let (function, module) = (printable(&demangled(name)), printable(module));
        Frame {
            function,
            line,
            module,
        }
    };
    let inlined = symbol.inlined.iter().rev();
    frames.extend(inlined.map(|inlined| frame(&inlined.name, inlined.code_info.as_ref())));
    frames.push(frame(&symbol.name, symbol.code_info.as_deref()));
}

/// The name of a function as its source has it, if it is mangled, which its prefix tells.
/// Without that, `i` would be the code of a type in C++, and is a name in C.
fn demangled(name: &str) -> Cow<'_, str> {
    const PREFIXES: [&str; 3] = ["_Z", "__Z", "_R"];
    if !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return name.into();
    }
    let rust = rustc_demangle::try_demangle(name);
    let rust = rust.map(|name| format!("{name:#}"));
    let cpp = || cpp_demangle::Symbol::new(name).ok()?.demangle().ok();
    rust.ok().or_else(cpp).map_or(name.into(), Cow::Owned)
}

/// A path by which the code can be read: that of the process, beside which debug
/// information is found, or the file that is open.
fn readable(code: &Code) -> PathBuf {
    let same = || {
        let by_path = fs::metadata(&code.path).ok()?;
        let open = code.file.metadata().ok()?;
        (by_path.dev() == open.dev() && by_path.ino() == open.ino()).then(|| code.path.clone())
    };
    same().unwrap_or_else(|| format!("/proc/self/fd/{}", code.file.as_raw_fd()).into())
}

/// A line of `/proc/PID/maps` that is about code.
#[derive(Debug, PartialEq, Eq)]
struct MapsLine<'a> {
    range: Range<u64>,
    offset: u64,
    path: &'a str,
}

impl<'a> MapsLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let (rights, offset) = (words.next()?, words.next()?);
        if !rights.contains('x') {
            return None;
        }
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            range: number(start)?..number(end)?,
            offset: number(offset)?,
            path: words.nth(2).unwrap_or_default().trim_start(),
        })
    }

    fn is_file(&self) -> bool {
        self.path.starts_with('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mangled_names_are_demangled() {
        for name in ["i", "b", "f", "epoll_ctl", "_Run", "_Zone", "St", "PKc"] {
            assert_eq!(demangled(name), name);
        }
        for (name, expected) in [
            ("_Z3addi", "add(int)"),
            ("_ZN6server3addEv", "server::add"),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
                "core::fmt::Write::write_fmt",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ] {
            assert!(
                demangled(name).starts_with(expected),
                "{name}: {}",
                demangled(name)
            );
        }
    }

    #[test]
    fn lines_of_maps() {
        let line = "7f00c000-7f00e000 r-xp 00026000 fe:01 1234      /usr/lib/a b.so (deleted)";
        let expected = MapsLine {
            range: 0x7f00_c000..0x7f00_e000,
            offset: 0x26000,
            path: "/usr/lib/a b.so (deleted)",
        };
        assert_eq!(MapsLine::parse(line), Some(expected));
        assert_eq!(MapsLine::parse("1000-2000 rw-p 0 00:00 0 [heap]"), None);
        let anonymous = MapsLine::parse("1000-2000 rwxp 00000000 00:00 0").unwrap();
        assert!(!anonymous.is_file());
    }

    fn frame(function: &str, line: Option<&str>, module: &str) -> Frame {
        Frame {
            function: function.into(),
            line: line.map(Into::into),
            module: module.into(),
        }
    }

    #[test]
    fn the_place_is_where_the_source_is_known_or_a_library_was_called() {
        let libc = frame("epoll_ctl", None, "libc.so.6");
        let add = frame("add", None, "server");
        let main = frame("main", Some("server.c:9"), "server");
        let place = |frames: &[&Frame]| {
            let trace = Trace(frames.iter().map(|&frame| frame.clone()).collect());
            trace.place().cloned()
        };
        assert_eq!(place(&[&libc, &add, &main]), Some(main.clone()));
        assert_eq!(place(&[&libc, &add]), Some(add.clone()));
        let crates = frame(
            "syscall",
            Some("/c/registry/src/x/rustix-1/a.rs:1"),
            "server",
        );
        assert_eq!(place(&[&crates, &main]), Some(main.clone()));
        assert_eq!(place(&[&crates]), Some(crates));
        // One with debug information.
        let line = "./misc/../sysdeps/unix/syscall-template.S:120";
        let debug = frame("epoll_ctl", Some(line), "libc.so.6");
        assert_eq!(place(&[&debug, &main]), Some(main.clone()));
        assert_eq!(place(&[&debug, &add, &main]), Some(main.clone()));
        assert_eq!(place(&[&debug, &add]), Some(add.clone()));
        assert_eq!(place(&[&libc]), Some(libc.clone()));
        assert_eq!(place(&[]), None);
    }
}
