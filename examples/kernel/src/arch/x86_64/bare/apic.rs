//! The local APIC: this CPU's timer, and how CPUs interrupt each other.
//!
//! ```text
//!   PIT, 2 ms ─► how fast the timer counts ─► a tick every millisecond, on each CPU
//!             └► how fast the time stamp counter does ─► nanoseconds
//!   interrupt command: INIT, start-up, fixed vectors ─► another CPU
//! ```
//!
//! Registers in memory (Intel SDM volume 3, §11.4.1); one page, the same address on every CPU, and
//! each sees its own.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use crate::arch::x86_64::time_stamp;
use crate::cpu::{MAX_CPUS, NoPreemption};

/// Vectors above those of exceptions.
pub(super) const TICK: u8 = 32;
pub(super) const CALL: u8 = 33;
pub(super) const SPURIOUS: u8 = 255;

/// IA32_APIC_BASE: where the registers are, and the bit that switches the APIC on.
const BASE_MSR: u32 = 0x1b;
const BASE: u64 = 0x000f_ffff_ffff_f000;
const ENABLED: u64 = 1 << 11;

/// Registers, as byte offsets (Intel SDM volume 3, table 11-1).
const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS_VECTOR: u64 = 0xf0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// Software enable, in the spurious vector's register.
const SOFTWARE_ENABLE: u32 = 1 << 8;
const PERIODIC: u32 = 1 << 17;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_16: u32 = 0b11;

/// Interrupt commands (Intel SDM volume 3, §11.6.1).
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;
const NON_MASKABLE: u32 = 0b100 << 8;
const INIT: u32 = 0b101 << 8;
const START_UP: u32 = 0b110 << 8;

/// The PIT's frequency, its ports, and the port with the gate and output of its channel 2.
const PIT_HERTZ: u32 = 1_193_182;
const PIT_COMMAND: u16 = 0x43;
const PIT_CHANNEL_2: u16 = 0x42;
const GATE: u16 = 0x61;
/// Channel 2, both bytes, interrupt on terminal count.
const ONE_SHOT: u8 = 0b1011_0000;

/// Ticks a second.
pub(super) const TICK_HERTZ: u32 = 1000;
/// How long the timer is compared with the PIT, and how often.
const MEASURE_MICROSECONDS: u32 = 2_000;
const MEASUREMENTS: u32 = 10;

static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// What the timer counts in a second.
static TIMER_HERTZ: AtomicU64 = AtomicU64::new(0);
/// What the time stamp counter counts in a second.
static TIME_STAMP_HERTZ: AtomicU64 = AtomicU64::new(0);
/// The APIC's number of each CPU.
static IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// The page of the registers.
pub(super) fn page() -> u64 {
    // SAFETY: every x86_64 CPU has it.
    unsafe { Msr::new(BASE_MSR).read() & BASE }
}

/// Notes that the page is mapped where it is.
pub(super) fn set_page(page: u64) {
    REGISTERS.store(page, Ordering::Release);
}

fn register(offset: u64) -> *mut u32 {
    let base = REGISTERS.load(Ordering::Relaxed);
    debug_assert!(base != 0, "the page is mapped at boot");
    core::ptr::with_exposed_provenance_mut((base + offset) as usize)
}

fn read(offset: u64) -> u32 {
    // SAFETY: the page is mapped for this, and reading a register has no effect.
    unsafe { register(offset).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: the page is mapped for this; the callers write what the register is for.
    unsafe { register(offset).write_volatile(value) };
}

/// Switches this CPU's APIC on. Returns its number.
pub(super) fn enable() -> u8 {
    let mut base = Msr::new(BASE_MSR);
    // SAFETY: every x86_64 CPU has it.
    let value = unsafe { base.read() };
    // SAFETY: the registers stay where they are.
    unsafe { base.write(value | ENABLED) };
    write(TASK_PRIORITY, 0);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
    (read(ID) >> 24) as u8
}

/// Notes which APIC is that of the CPU with this number.
pub(super) fn set_id(cpu: usize, id: u8) {
    IDS[cpu].store(id.into(), Ordering::Relaxed);
}

/// Compares the timer and the time stamp counter with the PIT; once. An emulator, and what is below it,
/// may take the CPU away at any moment, which makes a measurement longer, never shorter: the shortest of
/// some counts.
pub(super) fn measure() {
    write(TIMER, MASKED);
    write(DIVIDE, DIVIDE_BY_16);
    write(INITIAL_COUNT, u32::MAX);
    let (mut counts, mut stamps) = (u32::MAX, u64::MAX);
    for _ in 0..MEASUREMENTS {
        let (before, stamp) = (read(CURRENT_COUNT), time_stamp());
        wait(MEASURE_MICROSECONDS);
        counts = counts.min(before.wrapping_sub(read(CURRENT_COUNT)));
        stamps = stamps.min(time_stamp() - stamp);
    }
    write(INITIAL_COUNT, 0);
    let a_second = |count: u64| (count * (1_000_000 / u64::from(MEASURE_MICROSECONDS))).max(1);
    TIMER_HERTZ.store(a_second(counts.into()), Ordering::Relaxed);
    TIME_STAMP_HERTZ.store(a_second(stamps), Ordering::Relaxed);
}

/// The time stamp counter in nanoseconds.
pub(super) fn now() -> u64 {
    let hertz = TIME_STAMP_HERTZ.load(Ordering::Relaxed).max(1);
    (u128::from(time_stamp()) * 1_000_000_000 / u128::from(hertz)) as u64
}

/// Waits, by the PIT, at most 50 ms.
pub(super) fn wait(microseconds: u32) {
    let counts = (u64::from(PIT_HERTZ) * u64::from(microseconds) / 1_000_000) as u16;
    let mut gate = Port::<u8>::new(GATE);
    let mut channel = Port::<u8>::new(PIT_CHANNEL_2);
    // SAFETY: the timer's ports; nobody else uses its channel 2.
    unsafe {
        let other_bits = gate.read() & !0b11;
        gate.write(other_bits | 1);
        Port::<u8>::new(PIT_COMMAND).write(ONE_SHOT);
        channel.write(counts as u8);
        channel.write((counts >> 8) as u8);
        while gate.read() & 1 << 5 == 0 {
            core::hint::spin_loop();
        }
    }
}

/// Starts this CPU's ticks.
pub(super) fn start_ticks() {
    write(DIVIDE, DIVIDE_BY_16);
    write(TIMER, PERIODIC | u32::from(TICK));
    set_ticks(TICK_HERTZ);
}

/// Makes this CPU's ticks come so often a second; the first one is a whole period away.
pub(super) fn set_ticks(hertz: u32) {
    let counts = TIMER_HERTZ.load(Ordering::Relaxed) / u64::from(hertz.max(1));
    write(INITIAL_COUNT, counts.clamp(1, u32::MAX.into()) as u32);
}

/// Says that an interrupt has been dealt with.
pub(super) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Interrupts a CPU.
pub(super) fn call(cpu: usize) {
    command(IDS[cpu].load(Ordering::Relaxed) as u8, ASSERT | u32::from(CALL));
}

/// Sends an NMI to a CPU.
pub(super) fn interrupt_always(cpu: usize) {
    command(IDS[cpu].load(Ordering::Relaxed) as u8, ASSERT | NON_MASKABLE);
}

/// Resets the CPU with this APIC; it then waits for its start.
pub(super) fn init(id: u8) {
    command(id, ASSERT | INIT);
}

/// Starts a CPU that was reset at the beginning of `page`, in real mode.
pub(super) fn start_up(id: u8, page: u64) {
    command(id, ASSERT | START_UP | (page >> 12) as u32);
}

fn command(id: u8, command: u32) {
    // Two registers: no switch may come between, and a handler, which sends answers, leaves the first as
    // it was. Interrupts stay on: to read their flag takes a push that no table tells of.
    let _preemption = NoPreemption::new();
    let wait = || {
        while read(COMMAND_LOW) & PENDING != 0 {
            core::hint::spin_loop();
        }
    };
    wait();
    let before = read(COMMAND_HIGH);
    write(COMMAND_HIGH, u32::from(id) << 24);
    write(COMMAND_LOW, command);
    wait();
    write(COMMAND_HIGH, before);
}
