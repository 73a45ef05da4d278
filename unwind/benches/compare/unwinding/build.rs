//! Its own names are its own, although others in the process have the same.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
