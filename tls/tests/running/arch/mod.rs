//! Whose thread-local storage is in use.

mod area;

pub use area::{on, through};

/// Whether the FS base is not that of the C library, which has its own address at 16, too.
pub fn on_an_area() -> bool {
    area::fs_word::<0>() != area::fs_word::<16>()
}
