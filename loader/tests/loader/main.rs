//! Objects as compilers make them are loaded and run; broken ones are refused.

/// Makes a function of a loaded object's symbol: `function!(object, "name", fn(u32) -> u32)`.
macro_rules! function {
    ($object:expr, $name:expr, fn($($argument:ty),*) $(-> $result:ty)?) => {{
        let address = $object.symbol($name).expect($name);
        let address = std::ptr::with_exposed_provenance::<()>(address as usize);
        // SAFETY: the test compiled a function of this type under this name, and the loader lives.
        unsafe {
            std::mem::transmute::<*const (), extern "C" fn($($argument),*) $(-> $result)?>(address)
        }
    }};
}

mod archives;
mod bad_input;
mod compile;
mod destructors;
mod heap;
mod initializers;
mod matrix;
mod memory;
mod models;
mod patch;
mod program;
mod relocations;
mod run;
mod run_c;
mod sets;
mod stacks;
mod task;
mod toolchain;
mod unload;
