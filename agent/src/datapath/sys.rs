//! The few commands of `bpf(2)` that aya keeps to itself: what a pinned object is, maps of any key and value, programs and
//! links of netfilter.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::Context as _;
use aya_obj::generated::bpf_insn;

/// Commands, as `enum bpf_cmd` numbers them.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BTF_GET_FD_BY_ID: libc::c_long = 19;
const LINK_CREATE: libc::c_long = 28;

/// `union bpf_attr`, as far as it is needed here; the kernel takes a shorter one as if zeros followed.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    words: [u32; 2],
    pointers: [u64; 3],
}

/// `BPF_PROG_TYPE_NETFILTER`, `BPF_NETFILTER`.
const NETFILTER: u32 = 32;
const NETFILTER_ATTACH: u32 = 45;

/// The part of `union bpf_attr` that is for `BPF_PROG_LOAD`, as far as it is needed here.
#[repr(C)]
struct Loading {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// Where in netfilter a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Netfilter {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(super) family: u32,
    /// One of `NF_INET_…`.
    pub(super) hook: u32,
    /// Lower ones come first; no two programs have the same.
    pub(super) priority: u32,
}

/// What the kernel tells of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapInfo {
    /// Its number: two pins of one map have the same.
    pub(super) id: u32,
    pub(super) kind: u32,
    pub(super) key_size: usize,
    pub(super) value_size: usize,
    pub(super) max_entries: usize,
    /// Where its types are described; zero where they are not.
    pub(super) btf: u32,
    pub(super) key_type: u32,
    pub(super) value_type: u32,
}

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) program: u32,
    /// The device of a tcx or XDP link; zero when it has been detached, or its device is gone.
    pub(super) ifindex: u32,
    /// The priority of a link to netfilter.
    pub(super) priority: u32,
}

/// Opens what is pinned there; `None` where nothing is.
pub(super) fn open(pin: &Path) -> anyhow::Result<Option<OwnedFd>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // The path is the first member of this command's part of the union.
    let words = split(path.as_ptr().expose_provenance() as u64);
    let mut attributes = Attributes { words, ..Attributes::default() };
    match bpf(OBJ_GET, &mut attributes) {
        Ok(fd) => owned(fd).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("opening the pin {}", pin.display())),
    }
}

/// Pins the object there as well.
pub(super) fn pin(object: impl AsFd, place: &Path) -> anyhow::Result<()> {
    let path = CString::new(place.as_os_str().as_bytes())?;
    let mut attributes = Attributes {
        words: split(path.as_ptr().expose_provenance() as u64),
        pointers: [u64::from(raw(&object)), 0, 0],
    };
    bpf(OBJ_PIN, &mut attributes).map(drop).with_context(|| format!("pinning to {}", place.display()))
}

/// Loads a program of netfilter. Its name has at most 15 characters.
pub(super) fn load_netfilter(
    name: &str,
    instructions: &[bpf_insn],
    license: &std::ffi::CStr,
) -> anyhow::Result<OwnedFd> {
    let mut short = [0; 16];
    short.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    let mut loading = Loading {
        kind: NETFILTER,
        instruction_count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: short,
        ifindex: 0,
        expected_attach_type: NETFILTER_ATTACH,
    };
    // The verifier gives up where a signal waits for the thread: as often as libbpf tries.
    for _ in 0..5 {
        match bpf(PROG_LOAD, &mut loading) {
            Ok(fd) => return owned(fd),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    // Once more, for the verifier's words.
    let mut log = vec![0_u8; 1 << 20];
    loading.log_level = 1;
    loading.log_size = u32::try_from(log.len())?;
    loading.log = log.as_mut_ptr().expose_provenance() as u64;
    let error = match bpf(PROG_LOAD, &mut loading) {
        Ok(fd) => return owned(fd),
        Err(error) => error,
    };
    let words = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    Err(error).with_context(|| format!("the verifier says: {words}"))
}

/// Attaches a program to netfilter, in this thread's network namespace, for as long as the link lives. `None` where
/// another program has that priority.
pub(super) fn link_netfilter(program: impl AsFd, place: Netfilter) -> anyhow::Result<Option<OwnedFd>> {
    let mut attributes = Attributes {
        words: [raw(&program), 0],
        pointers: [join(NETFILTER_ATTACH, 0), join(place.family, place.hook), join(place.priority, 0)],
    };
    match bpf(LINK_CREATE, &mut attributes) {
        Ok(fd) => owned(fd).map(Some),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        Err(error) => Err(error).context("making a link to netfilter"),
    }
}

/// A program's number.
pub(super) fn program_id(program: impl AsFd) -> anyhow::Result<u32> {
    let mut info = [0_u32; 2];
    describe(&program, &mut info).context("asking the kernel about a program")?;
    Ok(info[1])
}

/// What a map is.
pub(super) fn map_info(map: impl AsFd) -> anyhow::Result<MapInfo> {
    let mut info = [0_u32; 22];
    describe(&map, &mut info).context("asking the kernel about a map")?;
    let [kind, id, key_size, value_size, max_entries, ..] = info;
    let [btf, key_type, value_type] = [info[16], info[17], info[18]];
    Ok(MapInfo {
        id,
        kind,
        key_size: usize::try_from(key_size)?,
        value_size: usize::try_from(value_size)?,
        max_entries: usize::try_from(max_entries)?,
        btf,
        key_type,
        value_type,
    })
}

/// What a link is.
pub(super) fn link_info(link: impl AsFd) -> anyhow::Result<LinkInfo> {
    let mut info = [0_u32; 14];
    describe(&link, &mut info).context("asking the kernel about a link")?;
    // tcx and XDP links both have their device in the first word behind the common part; links to netfilter have their
    // family, hook and priority there.
    Ok(LinkInfo { program: info[2], ifindex: info[4], priority: info[6] })
}

/// The description of types with that number.
pub(super) fn btf(id: u32) -> anyhow::Result<Vec<u8>> {
    let mut attributes = Attributes { words: [id, 0], ..Attributes::default() };
    let fd = owned(bpf(BTF_GET_FD_BY_ID, &mut attributes).context("opening a map's types")?)?;
    let mut info = [0_u32; 8];
    describe(&fd, &mut info).context("asking for the size of a map's types")?;
    let mut bytes = vec![0_u8; usize::try_from(info[2])?];
    let [low, high] = split(bytes.as_mut_ptr().expose_provenance() as u64);
    info = [low, high, info[2], 0, 0, 0, 0, 0];
    describe(&fd, &mut info).context("reading a map's types")?;
    Ok(bytes)
}

/// The key behind this one, or the first; `None` at the end. A key that is gone makes it start anew.
pub(super) fn next_key(map: impl AsFd, key: Option<&[u8]>, size: usize) -> anyhow::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; size];
    let key = key.map_or(0, |key| key.as_ptr().expose_provenance() as u64);
    let pointers = [key, next.as_mut_ptr().expose_provenance() as u64, 0];
    let mut attributes = Attributes { words: [raw(&map), 0], pointers };
    absent(bpf(MAP_GET_NEXT_KEY, &mut attributes).map(|_| next)).context("listing a map's keys")
}

/// A key's value.
pub(super) fn get(map: impl AsFd, key: &[u8], size: usize) -> anyhow::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; size];
    let pointers =
        [key.as_ptr().expose_provenance() as u64, value.as_mut_ptr().expose_provenance() as u64, 0];
    let mut attributes = Attributes { words: [raw(&map), 0], pointers };
    absent(bpf(MAP_LOOKUP_ELEM, &mut attributes).map(|_| value)).context("reading a map")
}

/// Enters a value.
pub(super) fn set(map: impl AsFd, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
    let pointers = [key.as_ptr().expose_provenance() as u64, value.as_ptr().expose_provenance() as u64, 0];
    let mut attributes = Attributes { words: [raw(&map), 0], pointers };
    bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop).context("writing a map")
}

fn describe(object: &impl AsFd, info: &mut [u32]) -> io::Result<()> {
    let length = u32::try_from(size_of_val(info)).map_err(io::Error::other)?;
    let mut attributes = Attributes {
        words: [raw(object), length],
        pointers: [info.as_mut_ptr().expose_provenance() as u64, 0, 0],
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes).map(drop)
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn raw(object: &impl AsFd) -> u32 {
    object.as_fd().as_raw_fd().cast_unsigned()
}

/// A pointer as two words, in the machine's order.
fn split(pointer: u64) -> [u32; 2] {
    let bytes = pointer.to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// Two words as the one that they are in the kernel's eyes.
fn join(low: u32, high: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// What a command has returned that makes descriptors.
fn owned(fd: libc::c_long) -> anyhow::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads the attributes, and what they point to in the sizes that the callers have from it; all
    // of that lives for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
