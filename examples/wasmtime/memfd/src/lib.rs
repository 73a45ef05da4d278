//! Nothing, under the name of a crate that `wasmtime` asks for on every Linux target and calls only
//! with `std`. The real one would link `std`.
#![no_std]
#![forbid(unsafe_code)]
