//! How modules are compiled, and so how they must be run: one file for both sides.

use wasmtime::Config;

/// Everything that wasmtime runs without `std`.
pub fn config() -> Config {
    let mut config = Config::new();
    config.wasm_gc(true);
    config.wasm_function_references(true);
    config.wasm_exceptions(true);
    config.wasm_memory64(true);
    config.wasm_multi_memory(true);
    config.wasm_tail_call(true);
    config.wasm_extended_const(true);
    config.wasm_wide_arithmetic(true);
    config.wasm_custom_page_sizes(true);
    config.wasm_relaxed_simd(true);
    // The specification's tests allow each CPU's results; with this there is one.
    config.relaxed_simd_deterministic(true);
    config
}
