//! What is loaded, as a person wants to see it.
//!
//! ```text
//!   base             text     rodata   data     TLS           handles  name
//!   0x000000400000   4096     812      64       16 static     2        driver.o
//!                      driver.o
//!                      libdev.a(queue.o)
//! ```

use alloc::borrow::ToOwned;
use alloc::format;

use unspool_kernel::{eprintln, loader};

/// Lists all objects with their files. Sizes are in bytes.
pub fn print() {
    eprintln!(
        "{:<18} {:>9} {:>9} {:>9} {:>15} {:>7}  name",
        "base", "text", "rodata", "data", "TLS", "handles"
    );
    for object in loader().objects() {
        let [text, rodata, data] =
            [object.text(), object.rodata(), object.data()].map(|range| range.end - range.start);
        let tls = object.tls_block().map_or_else(
            || "none".to_owned(),
            |tls| format!("{} {}", tls.size, if tls.is_static { "static" } else { "dynamic" }),
        );
        // Code comes first.
        let base = object.text().start;
        // Not the one that this loop has.
        let handles = object.handles() - 1;
        let name = object.name();
        eprintln!("{base:<#18x} {text:>9} {rodata:>9} {data:>9} {tls:>15} {handles:>7}  {name}");
        for file in object.files() {
            eprintln!("    {file}");
        }
    }
}
