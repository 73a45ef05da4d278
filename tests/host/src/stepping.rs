//! Programs executed instruction by instruction, our caller's registers compared at each of them.
//!
//! ```text
//!   child ─ one instruction ─► registers ─┬─► Cursor, one step ─► caller: ip, CFA, rbx … r15 ─┐
//!     ▲                                   └─► Shadow: what each `call` pushed and found ──────┴ same?
//!     └───────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The truth comes from execution alone: no table is read for it.

pub mod child;
mod code;
pub mod compare;
mod shadow;
pub mod space;
