//! What needs functions written in assembly.

mod foreign;
mod guess;
mod landing;
mod raise;
mod stepped;
