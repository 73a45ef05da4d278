//! Walking and landing in this very process.

mod arch;
mod process;
