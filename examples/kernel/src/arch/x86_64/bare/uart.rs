//! The serial console: COM1, and COM2 for what is said about the program.

use core::sync::atomic::{AtomicBool, Ordering};

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

use crate::lock::Lock;
use crate::machine::Stream;

const COM1: u16 = 0x3f8;
const COM2: u16 = 0x2f8;

/// How often a writer looks whether the port is free before it writes anyway: whoever holds it
/// may never go on. Less than what panics wait for each other, who write line by line.
const PATIENCE: u32 = 2_000_000;

/// Somebody has waited in vain; nobody waits any more until the port is free again.
static STUCK: AtomicBool = AtomicBool::new(false);

static OUTPUT: Lock<Uart16550<PioBackend>> = Lock::new(port(COM1));
static ERRORS: Lock<Uart16550<PioBackend>> = Lock::new(port(COM2));

/// Whether there is a second port.
static APART: AtomicBool = AtomicBool::new(false);

const fn port(address: u16) -> Uart16550<PioBackend> {
    // SAFETY: every machine this kernel runs on has its serial ports there, or nothing. Two values
    // for one port at worst mix their output.
    match unsafe { Uart16550::new_port(address) } {
        Ok(uart) => uart,
        Err(_) => panic!("serial ports have valid addresses"),
    }
}

/// Sets the lines up. Without a port, output goes nowhere.
pub(super) fn init() {
    let config = Config { baud_rate: BaudRate::Baud115200, ..Config::default() };
    // There is no place to report a missing console to.
    let _ = OUTPUT.lock().init(config.clone());
    let apart = ERRORS.lock().init(config).is_ok();
    APART.store(apart, Ordering::Relaxed);
}

/// Writes all of `text`.
pub(super) fn write(stream: Stream, text: &[u8]) {
    let (address, lock) = match stream {
        Stream::Errors if APART.load(Ordering::Relaxed) => (COM2, &ERRORS),
        Stream::Output | Stream::Errors => (COM1, &OUTPUT),
    };
    for _ in 0..PATIENCE {
        if let Some(mut port) = lock.try_lock() {
            STUCK.store(false, Ordering::Relaxed);
            return port.send_bytes_exact(text);
        }
        // Held here, it is by what a fault or an NMI interrupted.
        if lock.is_held_here() || STUCK.load(Ordering::Relaxed) {
            return port(address).send_bytes_exact(text);
        }
        core::hint::spin_loop();
    }
    STUCK.store(true, Ordering::Relaxed);
    port(address).send_bytes_exact(text);
}

/// Whether this CPU was in the middle of writing to a port.
pub(super) fn is_held_here() -> bool {
    OUTPUT.is_held_here() || ERRORS.is_held_here()
}
