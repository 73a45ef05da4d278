//! What needs functions written in assembly.

mod guess;
mod landing;
mod raise;
mod stepped;
