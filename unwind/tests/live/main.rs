//! Walking and landing in this very process.

mod guess;
mod landing;
mod process;
