//! Links the program as a kernel.
include!("../kernel/link.rs");

fn main() {
    link_kernel("unspool-wasmtime-kernel");
}
