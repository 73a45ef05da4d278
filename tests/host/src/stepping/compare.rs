//! Steps through a program and compares at every instruction.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use libc::{c_int, user_regs_struct};
use unspool_unwind::{Cursor, Pc, ReadStack as _, Registers, Step, UnwindError};

use super::child::{Child, Memory, Stop, by_number};
use super::code::{Code, Kind};
use super::shadow::{Caller, Origin, SAVED, Shadow};
use super::space::{Place, Space};

/// System calls that change what is code (`mmap`, `mprotect`, `munmap`, `mremap`).
const MMAP: u64 = 9;
const MPROTECT: u64 = 10;
const MUNMAP: u64 = 11;
const MREMAP: u64 = 25;
const PROT_EXEC: u64 = 4;

/// Where `gregs` of a `ucontext_t` lie, and the places of `rsp` and `rip` in them.
const GREGS: u64 = 40;
const GREGS_RSP: u64 = 15;
const GREGS_RIP: u64 = 16;

/// Below the stack pointer of interrupted code, its own (psABI x86-64 §3.2.2).
const RED_ZONE: u64 = 128;

/// From where on instructions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first instruction of the process: the dynamic linker's.
    Process,
    /// The program's entry point.
    Entry,
}

/// A program to step through.
pub struct Program {
    /// What it is called in reports.
    pub name: &'static str,
    /// How it is started.
    pub command: Command,
    /// From where on.
    pub start: Start,
    /// A signal that a clock sends: one of so many instructions is passed on, the others are not.
    /// A program that is a thousand times slower than usual would do nothing else.
    pub ticks: Option<(c_int, u64)>,
    /// Whether a thread takes the place of the one that starts it.
    pub follow_threads: bool,
}

/// Disagreements in one function.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// How many.
    pub count: u64,
    /// The link-time addresses of the instructions, and an example each.
    pub examples: BTreeMap<u64, String>,
}

/// What stepping through a program found.
#[derive(Debug, Default)]
pub struct Tally {
    /// Instructions executed.
    pub steps: u64,
    /// Those at which everything was compared, and was the same.
    pub agreed: u64,
    /// Those at which the frame was about to go elsewhere than to its caller, or had none that we
    /// saw, and then went exactly where ours said: to a landing pad, another task, `setjmp`.
    pub foretold: u64,
    /// Those in the outermost frame, and ours says so.
    pub outermost: u64,
    /// Those of code without a table, by its file.
    pub without: BTreeMap<String, u64>,
    /// Those at which something was not the same, by function.
    pub differences: BTreeMap<Place, Differences>,
    /// Different instructions among them.
    pub distinct: u64,
    /// The functions that they are of.
    pub functions: BTreeSet<Place>,
    /// How long it took.
    pub time: Duration,
}

impl Tally {
    /// At how many instructions ours was right.
    pub const fn right(&self) -> u64 {
        self.agreed + self.foretold + self.outermost
    }
}

/// Executes at most `limit` instructions of a program on one of the CPUs.
///
/// # Errors
///
/// If it cannot be started or controlled.
pub fn run(program: &mut Program, limit: u64, cpu: usize) -> Result<Tally> {
    let Program { command, .. } = program;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Child::spawn(command, cpu)?;
    if program.start == Start::Entry {
        child.run_to(child.entry()?)?;
    }
    if program.follow_threads {
        child.follow_threads()?;
    }
    let begun = Instant::now();
    let mut stepper = Stepper {
        space: Space::new(&child)?,
        memory: Memory::new(&child),
        child: &child,
        code: Code::default(),
        shadow: Shadow::default(),
        stack: 0..0,
        stale: false,
        interrupted: None,
        claim: None,
        visited: HashSet::new(),
        tally: Tally::default(),
    };
    stepper.run(limit, program.ticks)?;
    stepper.give_up_claim();
    let mut tally = stepper.tally;
    tally.time = begun.elapsed();
    Ok(tally)
}

/// What happened to the process since its registers were read.
enum Event {
    /// It executed an instruction.
    Executed,
    /// It got this signal, and nothing else happened.
    Signalled,
}

/// What ours says that execution has not shown so far.
struct Claim {
    caller: Caller,
    /// Where it was said, and what else execution seems to show.
    said: Vec<(u64, String)>,
}

struct Stepper<'c> {
    child: &'c Child,
    memory: Memory<'c>,
    space: Space,
    code: Code,
    shadow: Shadow,
    /// The stack in use.
    stack: Range<u64>,
    /// Whether something was mapped or unmapped since stacks were asked for.
    stale: bool,
    /// What the handler that returns now had interrupted.
    interrupted: Option<Caller>,
    claim: Option<Claim>,
    visited: HashSet<u64>,
    tally: Tally,
}

impl Stepper<'_> {
    fn run(&mut self, limit: u64, ticks: Option<(c_int, u64)>) -> Result<()> {
        let mut before = self.child.registers()?;
        self.settle(&before)?;
        let (mut signal, mut last_tick) = (0, 0);
        while self.tally.steps < limit {
            self.visit(before.rip);
            self.compare(&before);
            let kind = self.code.kind(self.child, before.rip);
            self.prepare(kind, &before);
            let stop = self.child.step(signal)?;
            self.memory.forget();
            let event = if signal == 0 { Event::Executed } else { Event::Signalled };
            signal = match stop {
                Stop::End => return Ok(()),
                Stop::Thread => {
                    before = self.begin_thread()?;
                    signal = 0;
                    continue;
                }
                Stop::Step => 0,
                Stop::Signal(number) => match ticks {
                    Some((tick, every)) if tick == number => {
                        let due = self.tally.steps >= last_tick + every;
                        if due {
                            last_tick = self.tally.steps;
                        }
                        if due { number } else { 0 }
                    }
                    _ => number,
                },
            };
            let after = self.child.registers()?;
            self.tally.steps += 1;
            self.examine_claim(&after);
            self.follow(kind, &event, &before, &after)?;
            before = after;
        }
        Ok(())
    }

    /// Another thread is under control: none of its calls were seen, because it has made none.
    fn begin_thread(&mut self) -> Result<user_regs_struct> {
        self.give_up_claim();
        (self.shadow, self.stack, self.stale) = (Shadow::default(), 0..0, true);
        let registers = self.child.registers()?;
        self.settle(&registers)?;
        Ok(registers)
    }

    /// Before an instruction whose effects cannot be seen afterwards.
    fn prepare(&mut self, kind: Kind, before: &user_regs_struct) {
        let returns = kind == Kind::System && before.rax == libc::SYS_rt_sigreturn as u64;
        let caller = self.shadow.caller(&self.stack, before.rsp);
        self.interrupted =
            caller.filter(|caller| returns && caller.origin == Origin::Interrupted).copied();
    }

    /// Keeps the shadow stack.
    fn follow(
        &mut self,
        kind: Kind,
        event: &Event,
        before: &user_regs_struct,
        after: &user_regs_struct,
    ) -> Result<()> {
        let registers = by_number(before);
        if matches!(event, Event::Signalled) && self.entered_handler(before, after) {
            self.settle(after)?;
            let interrupted = Caller::new(Origin::Interrupted, before.rip, &registers);
            let restorer = self.memory.read(after.rsp).unwrap_or(0);
            let handler = Caller::new(Origin::Handler, restorer, &by_number(after));
            self.shadow.settle(&self.stack, after.rsp + 16);
            self.shadow.push(after.rsp + 8, interrupted);
            self.shadow.push(after.rsp, Caller { sp: after.rsp + 8, ..handler });
            return Ok(());
        }
        if kind == Kind::System {
            self.after_system_call(before, after)?;
        }
        self.settle(after)?;
        match kind {
            Kind::Call(next) if after.rip != before.rip && after.rsp == before.rsp - 8 => {
                self.shadow.settle(&self.stack, before.rsp);
                self.shadow.push(after.rsp, Caller::new(Origin::Call, next, &registers));
            }
            _ => {}
        }
        // The handler had the interrupted code go on elsewhere: whatever runs there has that code
        // for its caller, until the stack pointer is back.
        if let Some(caller) = self.interrupted.take()
            && (after.rip, after.rsp) != (caller.ip, caller.sp)
            && after.rsp < caller.sp - RED_ZONE
        {
            self.shadow.settle(&self.stack, caller.sp - RED_ZONE);
            self.shadow.push(caller.sp - RED_ZONE, caller);
        }
        Ok(())
    }

    /// Whether the system made a frame for a handler, with the state before in it.
    fn entered_handler(&self, before: &user_regs_struct, after: &user_regs_struct) -> bool {
        let place = |index| self.memory.read(after.rsp + 8 + GREGS + 8 * index);
        after.rip != before.rip
            && after.rsp != before.rsp
            && (place(GREGS_RSP), place(GREGS_RIP)) == (Some(before.rsp), Some(before.rip))
    }

    fn after_system_call(
        &mut self,
        before: &user_regs_struct,
        after: &user_regs_struct,
    ) -> Result<()> {
        let (start, length) =
            if before.rax == MMAP { (after.rax, before.rsi) } else { (before.rdi, before.rsi) };
        let range = start..start.saturating_add(length);
        self.stale |= matches!(before.rax, MMAP | MPROTECT | MUNMAP | MREMAP);
        let changed = match before.rax {
            MMAP | MPROTECT => before.rdx & PROT_EXEC != 0 || self.space.has_code_in(&range),
            MUNMAP | MREMAP => self.space.has_code_in(&range),
            _ => false,
        };
        if changed {
            self.code.forget();
            self.space.refresh(self.child)?;
        }
        Ok(())
    }

    /// Ends the calls that returned, on the stack that is in use now.
    fn settle(&mut self, now: &user_regs_struct) -> Result<()> {
        if !self.stack.contains(&now.rsp) {
            if self.stale || self.space.stack(now.rsp).is_none() {
                self.space.refresh_stacks(self.child)?;
                self.stale = false;
            }
            let stack = self.space.stack(now.rsp);
            // A stack pointer that is at its stack's end.
            let stack = stack.or_else(|| self.space.stack(now.rsp.wrapping_sub(1)));
            self.stack = stack.unwrap_or(now.rsp..now.rsp);
        }
        self.shadow.settle(&self.stack, now.rsp);
        Ok(())
    }

    fn compare(&mut self, now: &user_regs_struct) {
        let registers = by_number(now);
        let pc = Pc::Exact(now.rip);
        let truth = self.shadow.caller(&self.stack, now.rsp);
        let mut cursor = Cursor::new(registers, pc, &self.memory, &self.space);
        let step = cursor.step();
        let problem = match (step, truth) {
            (Err(UnwindError::NoModule(_) | UnwindError::NoFde(_)), _) => {
                let file = self.space.place(now.rip).0.file;
                *self.tally.without.entry(file).or_default() += 1;
                return;
            }
            (Err(error), _) => error.to_string(),
            (Ok(Step::End), None) => {
                self.tally.outermost += 1;
                return;
            }
            (Ok(Step::End), Some(truth)) => format!("no caller, but it is {:#x}", truth.ip),
            (Ok(Step::Caller { cfa }), truth) => {
                let ours = cursor.registers();
                let problem = match truth {
                    None => Some(format!("caller {:#x}, but there is none", ours.ip())),
                    Some(truth) => difference(truth, cfa, ours),
                };
                match problem {
                    None => self.tally.agreed += 1,
                    Some(problem) => {
                        let caller = Caller::new(Origin::Call, ours.ip(), ours);
                        self.claim(caller, now.rip, problem);
                    }
                }
                return;
            }
        };
        self.differ(now.rip, problem);
    }

    fn differ(&mut self, ip: u64, problem: String) {
        let (place, address) = self.space.place(ip);
        let differences = self.tally.differences.entry(place).or_default();
        differences.count += 1;
        differences.examples.entry(address).or_insert(problem);
    }

    /// Ours says that the instruction at `ip` has this caller; it remains to be seen.
    fn claim(&mut self, caller: Caller, ip: u64, problem: String) {
        if !self.claim.as_ref().is_some_and(|claim| claim.caller == caller) {
            self.give_up_claim();
            self.claim = Some(Claim { caller, said: Vec::new() });
        }
        if let Some(claim) = &mut self.claim {
            claim.said.push((ip, problem));
        }
    }

    /// Whether it is as was said.
    fn examine_claim(&mut self, now: &user_regs_struct) {
        let Some(claim) = &self.claim else { return };
        if claim.caller == Caller::new(Origin::Call, now.rip, &by_number(now)) {
            self.tally.foretold += claim.said.len() as u64;
            self.claim = None;
        }
    }

    /// It is not.
    fn give_up_claim(&mut self) {
        for (ip, problem) in self.claim.take().into_iter().flat_map(|claim| claim.said) {
            self.differ(ip, problem);
        }
    }

    /// Remembers what was executed; later the file may be gone.
    fn visit(&mut self, ip: u64) {
        if self.visited.insert(ip) {
            let (place, _) = self.space.place(ip);
            self.tally.functions.insert(place);
            self.tally.distinct += 1;
        }
    }
}

/// What is not as it should be.
fn difference(truth: &Caller, cfa: u64, ours: &Registers) -> Option<String> {
    let mut found = String::new();
    let mut compare = |name: &str, ours: u64, truth: u64| {
        if ours != truth {
            found += &format!(" {name} is {truth:#x}, not {ours:#x};");
        }
    };
    compare("ip", ours.ip(), truth.ip);
    // Where the CFA of a signal frame lies is up to who wrote its table.
    if truth.origin != Origin::Interrupted {
        compare("CFA", cfa, truth.sp);
    }
    compare("rsp", ours.sp(), truth.sp);
    for (register, value) in SAVED.into_iter().zip(truth.saved) {
        compare(&format!("{register:?}"), ours.get(register), value);
    }
    (!found.is_empty()).then(|| format!("{:?}:{found}", truth.origin))
}
