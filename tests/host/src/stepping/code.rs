//! What the next instruction does to the stack of calls.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

use super::child::Child;

/// The longest instruction.
const LONGEST: usize = 15;

/// An instruction, as far as the shadow stack is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pushes the address of the next instruction, which this is.
    Call(u64),
    /// Enters the system.
    System,
    /// Whatever it does, the stack pointer shows.
    Other,
}

/// Instructions that were decoded once.
#[derive(Default)]
pub struct Code(HashMap<u64, Kind>);

impl Code {
    /// The instruction at `address`.
    pub fn kind(&mut self, child: &Child, address: u64) -> Kind {
        *self.0.entry(address).or_insert_with(|| {
            let mut bytes = [0; LONGEST];
            // The next page may not be there.
            let length = (1..=LONGEST).rev().find(|&n| child.read(address, &mut bytes[..n]));
            let bytes = &bytes[..length.unwrap_or(0)];
            let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
            match instruction.flow_control() {
                FlowControl::Call | FlowControl::IndirectCall
                    if instruction.mnemonic() == Mnemonic::Call =>
                {
                    Kind::Call(instruction.next_ip())
                }
                _ if instruction.mnemonic() == Mnemonic::Syscall => Kind::System,
                _ => Kind::Other,
            }
        })
    }

    /// To be called when code was mapped or unmapped.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}
