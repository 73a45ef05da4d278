//! Panics and traces through WebAssembly.
//!
//! ```text
//!   catch_unwind ─► outer, middle ─► host enter ─► inner, last ─► host leave: panics, or traces
//! ```

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alloc::string::String;

use unspool::backtrace::{Style, print, trace as frames};
use unspool::panic::{AssertUnwindSafe, catch_unwind, panic_any, platform};
use unspool_kernel::fault::{FaultInfo, FaultKind};
use unspool_kernel::task::JoinHandle;
use unspool_kernel::{println, task};
use unspool_wasmtime::{JitFrames, resume_from, wrap_host};
use wasmtime::{Caller, Instance, Linker, Result, Store};

use crate::wasm::{self, Wasm};

/// What is dropped on the way of a panic.
static DROPS: AtomicU32 = AtomicU32::new(0);

struct Dropped;

impl Drop for Dropped {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

/// The payload: not a message, so that it cannot be made again on the way.
#[derive(Debug, PartialEq)]
struct Payload(u64);

const PAYLOAD: Payload = Payload(0x5ca1_ab1e);

/// What the innermost host function does.
type Leave = fn() -> Result<()>;

/// A store with edges.wat, whose `leave` is this; its frames can be unwound and named.
struct Nested {
    store: Store<Option<Instance>>,
    instance: Instance,
    _frames: JitFrames,
}

fn nested(wasm: &Wasm, leave: Leave) -> Result<Nested> {
    let mut store = Store::new(&wasm.engine, None);
    let mut linker = Linker::<Option<Instance>>::new(&wasm.engine);
    linker.func_wrap("host", "enter", |mut caller: Caller<'_, Option<Instance>>| {
        wrap_host(|| {
            let _dropped = Dropped;
            let Some(instance) = *caller.data() else { return Ok(()) };
            let inner = instance.get_typed_func::<(), ()>(&mut caller, "inner")?;
            resume_from(inner.call(&mut caller, ()))
        })
    })?;
    linker.func_wrap("host", "leave", move || {
        wrap_host(|| {
            let _dropped = Dropped;
            leave()
        })
    })?;
    let module = wasm.module("edges.cwasm");
    let instance = linker.instantiate(&mut store, &module)?;
    *store.data_mut() = Some(instance);
    // SAFETY: dropped after the calls, when no frame of the module is left on a stack.
    let frames = unsafe { JitFrames::register(&module) }.map_err(wasmtime::Error::new)?;
    Ok(Nested { store, instance, _frames: frames })
}

/// A panic in the innermost host function comes out with its payload, and drops what is on its way.
pub fn payload(wasm: &Wasm) -> bool {
    let before = DROPS.load(Ordering::Relaxed);
    let Ok(mut nested) = nested(wasm, || panic_any(PAYLOAD)) else { return false };
    let (store, instance) = (&mut nested.store, nested.instance);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _dropped = Dropped;
        let outer = instance.get_typed_func::<(), ()>(&mut *store, "outer")?;
        resume_from(outer.call(&mut *store, ()))
    }));
    let payload = caught.err().and_then(|payload| payload.downcast::<Payload>().ok());
    let dropped = DROPS.load(Ordering::Relaxed) - before;
    println!("  caught {payload:?}, {dropped} values dropped on the way");
    // The store goes on.
    let add = instance.get_typed_func::<(u32, u32), u32>(&mut *store, "add");
    let sum = add.and_then(|add| add.call(store, (2, 3)));
    payload.is_some_and(|payload| *payload == PAYLOAD) && dropped == 3 && sum.ok() == Some(5)
}

/// A CPU fault in the innermost host function, likewise: the payload says which.
pub fn fault(wasm: &Wasm) -> bool {
    /// Page 0 is never mapped.
    const NOWHERE: usize = 8;
    let read = || {
        let place = core::ptr::with_exposed_provenance::<u8>(NOWHERE);
        // SAFETY: the access faults, and a fault unwinds.
        let _ = unsafe { place.read_volatile() };
        Ok(())
    };
    let Ok(mut nested) = nested(wasm, read) else { return false };
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let outer = nested.instance.get_typed_func::<(), ()>(&mut nested.store, "outer")?;
        resume_from(outer.call(&mut nested.store, ()))
    }));
    let fault = caught.err().and_then(|payload| payload.downcast::<FaultInfo>().ok());
    let Some(fault) = fault else { return false };
    println!("  caught: {fault}");
    matches!(fault.kind, FaultKind::PageFault { address, .. } if address == NOWHERE as u64)
}

/// A task that waits in the innermost host function, for ever.
pub struct Victim {
    task: JoinHandle<()>,
    before: u32,
}

/// The victim has come to where it waits.
static INSIDE: AtomicBool = AtomicBool::new(false);

impl Victim {
    /// Starts it. One at a time.
    pub fn spawn(wasm: &Wasm) -> Self {
        let wait = || {
            INSIDE.store(true, Ordering::SeqCst);
            loop {
                task::yield_now();
            }
        };
        INSIDE.store(false, Ordering::SeqCst);
        let before = DROPS.load(Ordering::SeqCst);
        let wasm = wasm.clone();
        let task = wasm::spawn("victim", move || {
            let _dropped = Dropped;
            let Ok(mut nested) = nested(&wasm, wait) else { return };
            let outer = nested.instance.get_typed_func::<(), ()>(&mut nested.store, "outer");
            // It is not an error that comes back: the task dies here.
            let _ = resume_from(outer.and_then(|outer| outer.call(&mut nested.store, ())));
        });
        Self { task, before }
    }

    /// Waits until it is there, kills it, and says whether it died there and dropped what was on its
    /// way.
    pub fn kill(self) -> bool {
        while !INSIDE.load(Ordering::SeqCst) && !self.task.is_finished() {
            task::yield_now();
        }
        self.task.task().kill();
        let killed = self.task.join().is_killed();
        let dropped = DROPS.load(Ordering::SeqCst) - self.before;
        println!("  killed: {killed}, {dropped} values dropped on the way");
        killed && dropped == 3
    }
}

/// A task that is killed in the innermost host function dies, and drops what is on its way.
pub fn killed(wasm: &Wasm) -> bool {
    Victim::spawn(wasm).kill()
}

/// A trace from the innermost host function names the functions of WebAssembly.
pub fn trace(wasm: &Wasm) -> bool {
    static RIGHT: AtomicU32 = AtomicU32::new(0);
    let look = || {
        let mut text = String::new();
        let printed = print(&mut text, frames(), Style::Full, platform().symbols());
        println!("{text}");
        let order = ["::last", "::inner", "::middle", "::outer"].map(|name| text.find(name));
        let named = order.is_sorted() && order.iter().all(Option::is_some);
        // The kernel's own functions, on both sides.
        let this = ["panics::trace", "panics::nested"].map(|name| text.find(name));
        let inside = this.iter().all(|place| place.is_some() && *place < order[0]);
        let named = named && inside && text.rfind("panics::trace") > order[3];
        RIGHT.store(u32::from(printed.is_ok() && named), Ordering::Relaxed);
        Ok(())
    };
    let Ok(Nested { mut store, instance, _frames }) = nested(wasm, look) else { return false };
    let outer = instance.get_typed_func::<(), ()>(&mut store, "outer");
    let called = outer.and_then(|outer| outer.call(&mut store, ()));
    called.is_ok() && RIGHT.load(Ordering::Relaxed) == 1
}
