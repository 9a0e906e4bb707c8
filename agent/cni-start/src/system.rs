//! The few system calls that it takes, by x86-64's calling convention (`syscall(2)`).

use core::arch::asm;

const READ: usize = 0;
const WRITE: usize = 1;
const CLOSE: usize = 3;
const POLL: usize = 7;
const SOCKET: usize = 41;
const CONNECT: usize = 42;
const SENDTO: usize = 44;
const EXIT_GROUP: usize = 231;

const AF_UNIX: u16 = 1;
const SOCK_STREAM: usize = 1;
const SOCK_NONBLOCK: usize = 0o4000;
const SOCK_CLOEXEC: usize = 0o2_000_000;
const MSG_NOSIGNAL: usize = 0x4000;
const POLLIN: u16 = 1;
const EINTR: isize = -4;

/// `sockaddr_un`, unix(7).
#[repr(C)]
pub(crate) struct Address {
    family: u16,
    path: [u8; 108],
}

/// `pollfd`, poll(2).
#[repr(C)]
struct Poll {
    descriptor: i32,
    wanted: u16,
    happened: u16,
}

impl Address {
    /// Nowhere.
    pub(crate) const EMPTY: Self = Self { family: AF_UNIX, path: [0; 108] };

    /// Where a path is; it must leave room for a zero byte.
    pub(crate) fn set(&mut self, path: &[u8]) -> Option<()> {
        if path.len() >= self.path.len() {
            return None;
        }
        self.path.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
        Some(())
    }
}

/// # Safety
/// What the system call asks for.
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the kernel changes rax, rcx, r11 and what the caller answers for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number.cast_signed() => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A file descriptor, as far as it is used here.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor(usize);

impl Descriptor {
    /// The standard input.
    pub(crate) const INPUT: Self = Self(0);
    /// The standard output.
    pub(crate) const OUTPUT: Self = Self(1);
    /// The standard error.
    pub(crate) const ERROR: Self = Self(2);

    /// A socket that is connected to an agent's, if its queue has room. It does not block.
    pub(crate) fn connect(address: &Address) -> Option<Self> {
        let kind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
        // SAFETY: takes numbers only.
        let socket = unsafe { call(SOCKET, [AF_UNIX.into(), kind, 0, 0, 0, 0]) };
        let socket = Self(usize::try_from(socket).ok()?);
        let length = size_of::<Address>();
        // SAFETY: the address is `length` bytes, which the kernel only reads.
        let result = unsafe { call(CONNECT, [socket.0, (&raw const *address).addr(), length, 0, 0, 0]) };
        if result == 0 {
            return Some(socket);
        }
        socket.close();
        None
    }

    pub(crate) fn close(self) {
        // SAFETY: only who opened a descriptor closes it.
        unsafe { call(CLOSE, [self.0, 0, 0, 0, 0, 0]) };
    }

    /// Reads once; zero is the end.
    pub(crate) fn read(self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            // SAFETY: the kernel writes no more than the buffer is long.
            let read = unsafe { call(READ, [self.0, buffer.as_mut_ptr().addr(), buffer.len(), 0, 0, 0]) };
            if read != EINTR {
                return usize::try_from(read).ok();
            }
        }
    }

    /// Waits until there is something to read, so many milliseconds at most.
    pub(crate) fn wait(self, milliseconds: u16) -> Option<()> {
        let mut poll = Poll { descriptor: i32::try_from(self.0).ok()?, wanted: POLLIN, happened: 0 };
        // SAFETY: one `pollfd`, which the kernel writes to.
        let ready = unsafe { call(POLL, [(&raw mut poll).addr(), 1, milliseconds.into(), 0, 0, 0]) };
        (ready == 1).then_some(())
    }

    /// Sends everything at once, to a socket.
    pub(crate) fn send(self, bytes: &[u8]) -> Option<()> {
        // SAFETY: the kernel reads no more than there is.
        let sent = unsafe { call(SENDTO, [self.0, bytes.as_ptr().addr(), bytes.len(), MSG_NOSIGNAL, 0, 0]) };
        (usize::try_from(sent).ok()? == bytes.len()).then_some(())
    }

    /// Writes everything.
    pub(crate) fn write(self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            // SAFETY: the kernel reads no more than there is.
            let written = unsafe { call(WRITE, [self.0, bytes.as_ptr().addr(), bytes.len(), 0, 0, 0]) };
            if written != EINTR {
                bytes = bytes.get(usize::try_from(written).ok()?..)?;
            }
        }
        Some(())
    }
}

/// Ends the process.
pub(crate) fn exit(status: usize) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { call(EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
    }
}
