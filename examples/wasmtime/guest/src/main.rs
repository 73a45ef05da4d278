//! The same on the host.

fn main() {
    print!("{}", unspool_wasmtime_guest::summary());
}
