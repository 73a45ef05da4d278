//! An engine, and the modules that the kernel was started with.

use unspool_kernel::boot;
use unspool_kernel::task::{Builder, JoinHandle};
use wasmtime::{Engine, Module, Result};

use crate::config::config;

/// Bytes of the stack of a task that runs WebAssembly: `Config::max_wasm_stack` and the host's part.
const STACK: usize = 1024 * 1024;

/// Runs `body` as a task that may run WebAssembly.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    match Builder::new(name).stack_size(STACK).spawn(body) {
        Ok(handle) => handle,
        Err(error) => panic!("cannot spawn task '{name}': {error}"),
    }
}

/// What runs modules; shared by tasks.
#[derive(Clone)]
pub struct Wasm {
    /// The engine.
    pub engine: Engine,
}

impl Wasm {
    /// An engine for modules that were compiled on the host.
    pub fn new() -> Self {
        match Engine::new(&config()) {
            Ok(engine) => Self { engine },
            Err(error) => panic!("no engine: {error:?}"),
        }
    }

    /// A module by the name of its program.
    pub fn module(&self, name: &str) -> Module {
        let Some(bytes) = boot::boot().module(name) else { panic!("{name} was not passed") };
        match self.code(bytes) {
            Ok(module) => module,
            Err(error) => panic!("{name}: {error:?}"),
        }
    }

    /// A module that the kernel was passed.
    pub fn code(&self, code: &'static [u8]) -> Result<Module> {
        // SAFETY: the build compiled all that the kernel is passed, with the same version and
        // configuration.
        unsafe { Module::deserialize(&self.engine, code) }
    }
}
