//! Stops a process at chosen system calls, before and after each: ptrace(2), with a seccomp(2) filter so that all other calls run at full
//! speed. A preloaded library would not do: the store makes its syncs without the C library.
#![allow(unsafe_code, reason = "ptrace, seccomp and waitpid have no safe calls; this file is the rig's only unsafe code")]

use anyhow::{Context, bail};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{PoisonError, RwLock};

/// Between fork and exec a new process holds copies of all that this one has open, locks of data folders included. So whoever locks one
/// in this process reads this, and whoever starts a process writes it.
pub static STARTING: RwLock<()> = RwLock::new(());

/// The id of a thread, as the system counts them.
pub type Thread = libc::pid_t;

/// A system call of the traced process.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What is to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// It goes on, and is not heard of again.
    None,
    /// Its end is of interest.
    End,
    /// It has to wait: it enters once more when another has left.
    Wait,
}

/// Who is told of each call. The thread that calls stands still meanwhile; others go on.
pub trait Watch {
    /// The process was loaded and has not run yet.
    fn started(&mut self, process: Thread) -> anyhow::Result<()>;
    /// A call is about to be made.
    fn enters(&mut self, thread: Thread, call: Call) -> Interest;
    /// A call is over: what it returned, an error as its negative number.
    fn leaves(&mut self, thread: Thread, result: i64);
}

/// Runs a command to its end, and tells of the calls with these numbers. All on the calling thread: a tracer is one.
///
/// # Errors
/// The command does not start, cannot be traced, or ends badly.
pub fn run(mut command: Command, numbers: &[i64], watch: &mut impl Watch) -> anyhow::Result<()> {
    let filter = filter(numbers);
    // SAFETY: between fork and exec it makes three system calls and allocates nothing; the filter lives until the exec.
    unsafe { command.pre_exec(move || accept_tracing(&filter)) };
    let spawned = {
        let _alone = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        command.spawn()
    };
    let child = spawned.with_context(|| format!("{command:?} does not start"))?;
    let process = Thread::try_from(child.id())?;
    let (_, status) = wait(process).context("waiting for the process to be loaded")?;
    if !libc::WIFSTOPPED(status) {
        bail!("the process ended before it was loaded: status {status:#x}");
    }
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK;
    let options = options | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACESECCOMP | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, process, u64::try_from(options)?).context("PTRACE_SETOPTIONS")?;
    watch.started(process)?;
    resume(libc::PTRACE_CONT, process, 0);
    let mut known = BTreeSet::from([process]);
    let mut waiting = VecDeque::new();
    loop {
        let (thread, status) = wait(-1).context("waiting for the process")?;
        if libc::WIFSTOPPED(status) {
            let new = known.insert(thread);
            stopped(thread, status, new, &mut waiting, watch);
        } else {
            known.remove(&thread);
            waiting.retain(|(waits, _)| *waits != thread);
            if thread == process {
                break ended(status);
            }
        }
    }
}

type Waiting = VecDeque<(Thread, Call)>;

fn stopped(thread: Thread, status: libc::c_int, new: bool, waiting: &mut Waiting, watch: &mut impl Watch) {
    let signal = libc::WSTOPSIG(status);
    match (signal, status >> 16) {
        (libc::SIGTRAP, libc::PTRACE_EVENT_SECCOMP) => match information(thread) {
            Some([number, a, b, c, d, e, f, _]) => {
                let call = Call { number: number.cast_signed(), arguments: [a, b, c, d, e, f] };
                enter(thread, call, waiting, watch);
            }
            None => resume(libc::PTRACE_CONT, thread, 0),
        },
        (SYSTEM_CALL, _) => {
            if let Some([result, ..]) = information(thread) {
                watch.leaves(thread, result.cast_signed());
            }
            resume(libc::PTRACE_CONT, thread, 0);
            for (thread, call) in std::mem::take(waiting) {
                enter(thread, call, waiting, watch);
            }
        }
        // Another event of tracing; or the stop with which a new thread begins, which may come before its event.
        (libc::SIGTRAP, 1..) => resume(libc::PTRACE_CONT, thread, 0),
        (libc::SIGSTOP, _) if new => resume(libc::PTRACE_CONT, thread, 0),
        (signal, _) => resume(libc::PTRACE_CONT, thread, signal),
    }
}

fn enter(thread: Thread, call: Call, waiting: &mut Waiting, watch: &mut impl Watch) {
    match watch.enters(thread, call) {
        Interest::None => resume(libc::PTRACE_CONT, thread, 0),
        Interest::End => resume(libc::PTRACE_SYSCALL, thread, 0),
        Interest::Wait => waiting.push_back((thread, call)),
    }
}

/// The stop signal of a system call's end under `PTRACE_O_TRACESYSGOOD`.
const SYSTEM_CALL: libc::c_int = libc::SIGTRAP | 0x80;

fn ended(status: libc::c_int) -> anyhow::Result<()> {
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, code) => bail!("the process ended with code {code}"),
        (false, _) => bail!("the process was ended by signal {}", libc::WTERMSIG(status)),
    }
}

/// A thread that is gone is seen by the next wait.
fn resume(request: libc::c_uint, thread: Thread, signal: libc::c_int) {
    let _ = ptrace(request, thread, u64::from(signal.unsigned_abs()));
}

fn ptrace(request: libc::c_uint, thread: Thread, data: u64) -> io::Result<()> {
    // SAFETY: only with requests whose data is a number: no memory of this process is read or written.
    let result = unsafe { libc::ptrace(request, thread, 0_usize, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The last words of `struct ptrace_syscall_info`: number and arguments of a call that begins, the result of one that is over.
fn information(thread: Thread) -> Option<[u64; 8]> {
    const WORDS: usize = 11;
    let mut words = MaybeUninit::<[u64; WORDS]>::zeroed();
    // SAFETY: the kernel writes at most so many bytes as it is told that there are.
    let written = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size_of::<[u64; WORDS]>(), words.as_mut_ptr()) };
    // SAFETY: all of it was zeroed, and any bits are a number.
    let words = unsafe { words.assume_init() };
    (written > 0).then(|| std::array::from_fn(|n| words[n + 3]))
}

/// Waits for this thread's children and tracees alone: others of the process may have children of their own.
fn wait(thread: Thread) -> io::Result<(Thread, libc::c_int)> {
    loop {
        let mut status = 0;
        // SAFETY: it writes one integer to a place that lives.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        match waited {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            thread => return Ok((thread, status)),
        }
    }
}

/// A program for seccomp: the calls with these numbers stop for the tracer, all others run.
fn filter(numbers: &[i64]) -> Vec<libc::sock_filter> {
    // Opcodes of classic BPF: load a word of the call's description, jump if equal, return.
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NUMBER_OFFSET: u32 = 0;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![step(LOAD, 0, 0, NUMBER_OFFSET)];
    for number in numbers {
        let number = u32::try_from(*number).expect("system calls have small numbers");
        program.extend([step(JUMP_IF_EQUAL, 0, 1, number), step(RETURN, 0, 0, libc::SECCOMP_RET_TRACE)]);
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn accept_tracing(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: three system calls; the program is read by the second before it returns.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == -1
            || libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) == -1
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
