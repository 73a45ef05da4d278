//! A process that is executed instruction by instruction (ptrace(2)).
//!
//! ```text
//!   spawn ─► stopped at its first instruction ─► run_to ─► step, step, step … ─► End
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child as Process, Command};
use std::ptr;

use anyhow::{Context as _, Result, bail};
use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};
use unspool_unwind::{ReadStack, Register, Registers};

/// The processor's `int3`.
const BREAKPOINT: u8 = 0xcc;
/// The type of the auxiliary vector's entry for the program's entry point (`AT_ENTRY`).
const ENTRY: u64 = 9;

/// Why the process stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An instruction was executed, or a handler was entered.
    Step,
    /// Before the next instruction it gets this signal, if that is passed on.
    Signal(c_int),
    /// It started a thread, which is the one under control now, before its first instruction.
    Thread,
    /// It is gone.
    End,
}

/// A thread of a process under our control: its newest if threads are followed, else its first; the
/// others run freely. The thread that starts the process alone can control it.
pub struct Child {
    process: Process,
    /// The number of the thread.
    pid: Cell<pid_t>,
}

impl Child {
    /// Starts a program and stops it before its first instruction, which is the dynamic linker's
    /// if it has one. Process and calling thread share one CPU: they never run at once.
    ///
    /// # Errors
    ///
    /// If the program cannot be started or traced.
    pub fn spawn(command: &mut Command, cpu: usize) -> Result<Self> {
        share(cpu);
        let prepare = || {
            // SAFETY: both calls take numbers only and are safe between fork and exec.
            let done = unsafe {
                libc::personality(libc::ADDR_NO_RANDOMIZE as _) != -1
                    && libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != -1
            };
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: `prepare` calls the system alone, and allocates nothing.
        let spawned = unsafe { command.pre_exec(prepare) }.spawn();
        let process = spawned.with_context(|| format!("starting {command:?}"))?;
        let pid = Cell::new(process.id() as pid_t);
        let child = Self { process, pid };
        match child.wait()? {
            Stop::Step => {}
            other => bail!("{command:?} began with {other:?}"),
        }
        child.options(0)?;
        Ok(child)
    }

    /// From now on, controls each thread that the one under control starts, in its place.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn follow_threads(&self) -> Result<()> {
        self.options(libc::PTRACE_O_TRACECLONE)
    }

    fn options(&self, options: c_int) -> Result<()> {
        let options = options | libc::PTRACE_O_EXITKILL;
        self.request(libc::PTRACE_SETOPTIONS, 0, options as usize)?;
        Ok(())
    }

    fn request(&self, request: libc::c_uint, address: usize, data: usize) -> Result<c_long> {
        // SAFETY: of the requests that are made here only PTRACE_GETREGS and PTRACE_GETEVENTMSG
        // let the system write memory of this process, and their callers pass places for that.
        let result = unsafe { libc::ptrace(request, self.pid.get(), address, data) };
        if result == -1 {
            return Err(io::Error::last_os_error()).with_context(|| format!("ptrace({request})"));
        }
        Ok(result)
    }

    fn wait(&self) -> Result<Stop> {
        let status = self.status()?;
        Ok(match () {
            () if !libc::WIFSTOPPED(status) => Stop::End,
            () if status >> 16 == libc::PTRACE_EVENT_CLONE => {
                self.take_thread()?;
                Stop::Thread
            }
            () if libc::WSTOPSIG(status) == libc::SIGTRAP => Stop::Step,
            () => Stop::Signal(libc::WSTOPSIG(status)),
        })
    }

    fn status(&self) -> Result<c_int> {
        let mut status = 0;
        // SAFETY: `status` is a place for the result.
        if unsafe { libc::waitpid(self.pid.get(), &mut status, libc::__WALL) } == -1 {
            return Err(io::Error::last_os_error()).context("waitpid");
        }
        Ok(status)
    }

    /// Lets go of the thread under control for the one that it has started.
    fn take_thread(&self) -> Result<()> {
        let mut thread: libc::c_ulong = 0;
        let place = (&raw mut thread).expose_provenance();
        self.request(libc::PTRACE_GETEVENTMSG, 0, place)?;
        self.request(libc::PTRACE_DETACH, 0, 0)?;
        self.pid.set(thread as pid_t);
        // It begins by stopping.
        self.status()?;
        Ok(())
    }

    /// Executes one instruction, or enters the handler of `signal` if that is not 0.
    ///
    /// # Errors
    ///
    /// If the process is not ours to control.
    pub fn step(&self, signal: c_int) -> Result<Stop> {
        self.request(libc::PTRACE_SINGLESTEP, 0, signal as usize)?;
        self.wait()
    }

    /// Executes everything before the instruction at `address`.
    ///
    /// # Errors
    ///
    /// If the process ends before it comes there.
    pub fn run_to(&self, address: u64) -> Result<()> {
        let mut byte = [0];
        if !self.read(address, &mut byte) {
            bail!("no code at {address:#x}");
        }
        self.write(address, BREAKPOINT)?;
        let mut signal = 0;
        loop {
            self.request(libc::PTRACE_CONT, 0, signal as usize)?;
            signal = match self.wait()? {
                Stop::Step => break,
                Stop::Signal(signal) => signal,
                Stop::Thread => bail!("a thread before {address:#x}"),
                Stop::End => bail!("ended before {address:#x}"),
            };
        }
        self.write(address, byte[0])?;
        let mut registers = self.registers()?;
        if registers.rip != address + 1 {
            bail!("stopped at {:#x} instead of {address:#x}", registers.rip);
        }
        registers.rip = address;
        self.request(libc::PTRACE_SETREGS, 0, (&raw mut registers).expose_provenance())?;
        Ok(())
    }

    /// The program's entry point, where the dynamic linker has done its work.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn entry(&self) -> Result<u64> {
        let vector = std::fs::read(format!("/proc/{}/auxv", self.pid.get()))?;
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        let mut entries = vector.chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..])));
        let entry = entries.find(|&(kind, _)| kind == ENTRY).context("no AT_ENTRY")?;
        Ok(entry.1)
    }

    /// What the process has mapped, as `/proc/pid/maps` has it.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn maps(&self) -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/maps", self.pid.get()))?)
    }

    /// The registers.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn registers(&self) -> Result<user_regs_struct> {
        // SAFETY: a structure of integers.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, (&raw mut registers).expose_provenance())?;
        Ok(registers)
    }

    /// Fills `bytes` with memory of the process; says whether all of it is there.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let length = bytes.len();
        let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        let there = libc::iovec {
            iov_base: ptr::without_provenance_mut::<c_void>(address as usize),
            iov_len: length,
        };
        // SAFETY: `here` is a slice that is borrowed for the call; `there` is another process's.
        let read = unsafe { libc::process_vm_readv(self.pid.get(), &here, 1, &there, 1, 0) };
        read == length as isize
    }

    /// Replaces a byte of code.
    fn write(&self, address: u64, byte: u8) -> Result<()> {
        let mut word = [0; 8];
        if !self.read(address, &mut word) {
            bail!("no word at {address:#x}");
        }
        word[0] = byte;
        let word = usize::from_ne_bytes(word);
        self.request(libc::PTRACE_POKETEXT, address as usize, word)?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Binds the calling thread, and what it starts, to one of the CPUs it may use.
fn share(cpu: usize) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: sets of bits, of which all zeroes is one, and their size; they are only borrowed.
    unsafe {
        let mut usable: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size, &mut usable);
        let count = libc::CPU_COUNT(&usable).max(1) as usize;
        let mut all = (0..libc::CPU_SETSIZE as usize).filter(|&n| libc::CPU_ISSET(n, &usable));
        if let Some(chosen) = all.nth(cpu % count) {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(chosen, &mut one);
            // Without it everything is slower, and right.
            libc::sched_setaffinity(0, size, &one);
        }
    }
}

/// The registers by DWARF number.
pub fn by_number(registers: &user_regs_struct) -> Registers {
    let r = registers;
    let values = [
        r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15, r.rip,
    ];
    let mut all = Registers::new();
    for (register, value) in Register::all().zip(values) {
        all.set(register, value);
    }
    all
}

/// Bytes that are read at once; a block never crosses a page.
const BLOCK: u64 = 512;

/// The memory of a stopped process, a block of which is kept.
pub struct Memory<'c> {
    child: &'c Child,
    at: Cell<u64>,
    block: RefCell<[u8; BLOCK as usize]>,
}

impl<'c> Memory<'c> {
    /// Everything that the process can read.
    pub const fn new(child: &'c Child) -> Self {
        Self { child, at: Cell::new(1), block: RefCell::new([0; BLOCK as usize]) }
    }

    /// To be called when the process has run.
    pub fn forget(&self) {
        // No block begins there.
        self.at.set(1);
    }
}

impl ReadStack for Memory<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        if !address.is_multiple_of(8) {
            return None;
        }
        let start = address & !(BLOCK - 1);
        if self.at.get() != start {
            self.forget();
            if !self.child.read(start, &mut *self.block.borrow_mut()) {
                return None;
            }
            self.at.set(start);
        }
        let offset = (address - start) as usize;
        let block = self.block.borrow();
        Some(u64::from_le_bytes(block[offset..offset + 8].try_into().expect("eight bytes")))
    }
}
