//! The serial console: COM1.

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

use crate::lock::Lock;

const COM1: u16 = 0x3f8;

/// How often a writer looks whether the port is free before it writes anyway: whoever holds it
/// may be what a fault interrupted.
const PATIENCE: u32 = 100_000;

static PORT: Lock<Uart16550<PioBackend>> = Lock::new(com1());

const fn com1() -> Uart16550<PioBackend> {
    // SAFETY: every machine this kernel runs on has its first serial port there. Two values for
    // it at worst mix their output.
    match unsafe { Uart16550::new_port(COM1) } {
        Ok(uart) => uart,
        Err(_) => panic!("COM1 is a valid port address"),
    }
}

/// Sets the line up. Without a port, output goes nowhere.
pub(super) fn init() {
    let config = Config { baud_rate: BaudRate::Baud115200, ..Config::default() };
    // There is no place to report a missing console to.
    let _ = PORT.lock().init(config);
}

/// Writes all of `text`.
pub(super) fn write(text: &[u8]) {
    for _ in 0..PATIENCE {
        if let Some(mut port) = PORT.try_lock() {
            return port.send_bytes_exact(text);
        }
        core::hint::spin_loop();
    }
    com1().send_bytes_exact(text);
}
