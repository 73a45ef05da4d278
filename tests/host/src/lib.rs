//! What the host tests share: real ELF files as modules, and gimli evaluated plainly.
//!
//! ```text
//!   ELF file ─► Image ─► unspool_unwind::Module ─► our caller's registers ─┐
//!                    └─► gimli, row by row, on its heap ───────────────────┴─ equal?
//! ```

pub mod image;
pub mod oracle;
pub mod stepping;
