//! Links the program as a kernel.
include!("../../../examples/kernel/link.rs");

fn main() {
    link_kernel("unspool-throw-bench");
}
