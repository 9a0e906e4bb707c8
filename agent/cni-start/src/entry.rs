//! Where the process begins, and how it goes on.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ffi::c_char;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::answer::{self, Answer};
use crate::system::{Address, Descriptor, exit};
use crate::{config, request};

/// More than any network configuration has; a longer one is the plugin proper's.
const MOST: usize = 64 << 10;
/// How long the agent may take: much longer than it ever does. Then the plugin proper asks again, which is told what came
/// of it, and has its own patience.
const PATIENCE: u16 = 10_000;

/// Memory that is zero in the beginning and takes no place in the executable.
struct Memory(UnsafeCell<[u8; MOST]>);

// SAFETY: it is written before there can be a second thread, and only read afterwards.
unsafe impl Sync for Memory {}

static INPUT: Memory = Memory(UnsafeCell::new([0; MOST]));
static REQUEST: Memory = Memory(UnsafeCell::new([0; MOST]));
static ANSWER: Memory = Memory(UnsafeCell::new([0; MOST]));
/// How much of [`INPUT`] has been read.
static READ: AtomicUsize = AtomicUsize::new(0);

/// What was read of the standard input before the C library started: it comes before what is left there.
pub fn read_ahead() -> &'static [u8] {
    // SAFETY: nobody writes any more.
    let input: &'static [u8] = unsafe { &*INPUT.0.get() };
    input.get(..READ.load(Ordering::Relaxed)).unwrap_or_default()
}

/// The executable's entry point: does the runtime's request, or goes on to the C library's.
///
/// # Safety
/// Only the kernel jumps here, when the process begins.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn podlane_cni_start() {
    // rsp is at the number of arguments (System V ABI, AMD64 supplement, 3.4.1); `_start` finds rsp and rdx as they were.
    naked_asm!(
        "xor ebp, ebp",
        "mov rbx, rsp",
        "mov r12, rdx",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {begin}",
        "mov rsp, rbx",
        "mov rdx, r12",
        "jmp _start",
        begin = sym begin,
    )
}

/// Returns where the plugin proper has to do it.
///
/// # Safety
/// `stack` is what the kernel has left there for a new process.
unsafe extern "C" fn begin(stack: *const usize) {
    // SAFETY: the number of arguments, so many pointers to them, and a null pointer come before the environment.
    let environment = unsafe { Environment(stack.add(*stack + 2).cast()) };
    match ask(environment) {
        None => {}
        Some(Answer::Done(result)) => exit(usize::from(Descriptor::OUTPUT.write(result).is_none())),
        Some(Answer::Refused(error)) => {
            // For the runtime's log; what it acts upon is on the standard output.
            for part in [b"podlane-cni: ".as_slice(), error, b"\n"] {
                let _ = Descriptor::ERROR.write(part);
            }
            let _ = Descriptor::OUTPUT.write(error);
            exit(1)
        }
        Some(Answer::Unfinished | Answer::Odd) => {}
    }
}

/// Has the agent do it. None, or an answer that is no answer, is the plugin proper's business.
fn ask(environment: Environment) -> Option<Answer<'static>> {
    if !request::is_for_the_agent(environment) {
        return None;
    }
    let config = read_input()?;
    let mut address = Address::EMPTY;
    address.set(config::socket(config)?)?;
    // SAFETY: nobody else uses it.
    let request = request::write(unsafe { &mut *REQUEST.0.get() }, environment, config)?;
    let agent = Descriptor::connect(&address)?;
    let answer = agent.send(request).and_then(|()| receive(agent));
    agent.close();
    answer
}

/// The standard input to its end.
fn read_input() -> Option<&'static [u8]> {
    // SAFETY: nobody else uses it yet.
    let input = unsafe { &mut *INPUT.0.get() };
    loop {
        let length = READ.load(Ordering::Relaxed);
        let room = input.get_mut(length..).filter(|room| !room.is_empty())?;
        match Descriptor::INPUT.read(room)? {
            0 => return Some(read_ahead()),
            read => READ.store(length + read, Ordering::Relaxed),
        }
    }
}

fn receive(agent: Descriptor) -> Option<Answer<'static>> {
    let mut length = 0;
    loop {
        agent.wait(PATIENCE)?;
        // SAFETY: nobody else uses it, and what was handed out of it is read no more.
        let room = unsafe { &mut *ANSWER.0.get() }.get_mut(length..)?;
        match agent.read(room)? {
            0 => return None,
            read => length += read,
        }
        // SAFETY: from here on it is only read, unless it is not whole.
        match answer::read(unsafe { &*ANSWER.0.get() }.get(..length)?) {
            Answer::Unfinished => {}
            whole => return Some(whole),
        }
    }
}

/// The process's environment.
#[derive(Clone, Copy)]
struct Environment(*const *const c_char);

impl Iterator for Environment {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: a list of pointers to texts that end with zero, with a null pointer at its end, where it stays.
        unsafe {
            let variable = *self.0;
            if variable.is_null() {
                return None;
            }
            self.0 = self.0.add(1);
            Some(bytes(variable))
        }
    }
}

/// `CStr` asks `strlen`, which is the C library's.
///
/// # Safety
/// A text that ends with zero and stays where it is.
unsafe fn bytes(text: *const c_char) -> &'static [u8] {
    let mut length = 0;
    // SAFETY: up to the zero all of it can be read.
    unsafe {
        while *text.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(text.cast(), length)
    }
}
