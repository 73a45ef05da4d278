//! Runs the directives of a script, in a store of its own.
//!
//! ```text
//!   Module ─► instances by name, the last one ─► Invoke, Get ─► Return, Trap, Exception
//!   Register ─► linker ─► imports of later modules
//! ```
#![forbid(unsafe_code)]

use core::fmt::Display;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use wasmtime::error::Context;
use wasmtime::{
    Error, Extern, Instance, Linker, Module, Result, Store, ThrownException, Trap, Val, bail,
    format_err,
};

use super::{outside, value};
use crate::record::{Action, Directive, Expected, Id, Script};
use crate::wasm::Wasm;

/// A script that runs.
struct Run<'w> {
    wasm: &'w Wasm,
    store: Store<()>,
    linker: Linker<()>,
    modules: BTreeMap<Id, Module>,
    instances: BTreeMap<Id, Instance>,
}

/// Runs a script; says of each directive that fails, where and why.
///
/// # Errors
///
/// There cannot even be what every script imports.
pub fn run(
    wasm: &Wasm,
    script: Script<'static>,
    mut report: impl FnMut(u32, &dyn Display),
) -> Result<()> {
    let mut store = Store::new(&wasm.engine, ());
    let mut linker = Linker::new(&wasm.engine);
    linker.allow_shadowing(true);
    outside::define(&mut store, &mut linker)?;
    let (modules, instances) = (BTreeMap::new(), BTreeMap::new());
    let mut run = Run { wasm, store, linker, modules, instances };
    for (line, directive) in script.directives {
        if let Err(error) = run.directive(directive) {
            report(line, &format_args!("{error:?}"));
        }
    }
    Ok(())
}

impl Run<'_> {
    fn directive(&mut self, directive: Directive<'static>) -> Result<()> {
        match directive {
            Directive::Module(id, code) => {
                let module = self.define(id.clone(), code)?;
                self.instantiate(id, &module)
            }
            Directive::Define(id, code) => self.define(id, code).map(drop),
            Directive::Instance(id, module) => {
                let module = self.modules.get(&module).context("no such module")?.clone();
                self.instantiate(id, &module)
            }
            Directive::Register(name, id) => {
                let instance = self.instance(&id)?;
                self.linker.instance(&mut self.store, &name, instance).map(drop)
            }
            Directive::Perform(action) => self.perform(action).map(drop),
            Directive::Return(action, expected) => {
                let values = self.perform(action)?;
                self.compare(&values, &expected)
            }
            Directive::Trap(action, reason) => match self.perform(action) {
                Ok(values) => bail!("`{reason}` is expected, not {values:?}"),
                Err(error) => trapped(&error, &reason),
            },
            Directive::Exception(action) => match self.perform(action) {
                Ok(values) => bail!("an exception is expected, not {values:?}"),
                Err(error) if error.is::<ThrownException>() => {
                    self.store.take_pending_exception().context("there is no exception").map(drop)
                }
                Err(error) => Err(error.context("an exception is expected")),
            },
            Directive::Unlinkable(code) => {
                let module = self.wasm.code(code)?;
                match self.linker.instantiate(&mut self.store, &module) {
                    Ok(_) => bail!("it links"),
                    Err(error) if error.is::<Trap>() => Err(error.context("it links, and traps")),
                    Err(_) => Ok(()),
                }
            }
        }
    }

    fn define(&mut self, id: Id, code: &'static [u8]) -> Result<Module> {
        let module = self.wasm.code(code)?;
        // The last one can be meant without a name.
        self.modules.insert(None, module.clone());
        self.modules.insert(id, module.clone());
        Ok(module)
    }

    fn instantiate(&mut self, id: Id, module: &Module) -> Result<()> {
        let instance = self.linker.instantiate(&mut self.store, module)?;
        self.instances.insert(None, instance);
        self.instances.insert(id, instance);
        Ok(())
    }

    fn instance(&self, id: &Id) -> Result<Instance> {
        self.instances.get(id).copied().with_context(|| format_err!("no instance {id:?}"))
    }

    fn export(&mut self, id: &Id, name: &String) -> Result<Extern> {
        let export = self.instance(id)?.get_export(&mut self.store, name);
        export.with_context(|| format_err!("no export {name:?}"))
    }

    fn perform(&mut self, action: Action<'static>) -> Result<Vec<Val>> {
        match action {
            Action::Invoke(id, name, arguments) => {
                let function = self.export(&id, &name)?.into_func().context("no function")?;
                let arguments: Vec<_> = arguments
                    .iter()
                    .map(|argument| value::argument(&mut self.store, argument))
                    .collect::<Result<_>>()?;
                let count = function.ty(&self.store).results().len();
                let mut results = vec![Val::I32(0); count];
                function.call(&mut self.store, &arguments, &mut results)?;
                Ok(results)
            }
            Action::Get(id, name) => {
                let global = self.export(&id, &name)?.into_global().context("no global")?;
                Ok(vec![global.get(&mut self.store)])
            }
            Action::Instantiate(code) => {
                let module = self.wasm.code(code)?;
                self.linker.instantiate(&mut self.store, &module).map(|_| Vec::new())
            }
        }
    }

    fn compare(&mut self, values: &[Val], expected: &[Expected]) -> Result<()> {
        let mut right = values.len() == expected.len();
        for (value, expected) in values.iter().zip(expected) {
            right &= value::agrees(&mut self.store, value, expected)?;
        }
        if right { Ok(()) } else { bail!("{expected:?} is expected, not {values:?}") }
    }
}

/// Whether an error is the trap that the suite calls so.
fn trapped(error: &Error, reason: &str) -> Result<()> {
    let expected: &[Trap] = match reason {
        "unreachable" => &[Trap::UnreachableCodeReached],
        "integer divide by zero" => &[Trap::IntegerDivisionByZero],
        "integer overflow" => &[Trap::IntegerOverflow],
        "invalid conversion to integer" => &[Trap::BadConversionToInteger],
        "out of bounds memory access" => &[Trap::MemoryOutOfBounds],
        "out of bounds table access" => &[Trap::TableOutOfBounds],
        // Files of proposals say no more than this.
        "out of bounds" => &[Trap::MemoryOutOfBounds, Trap::TableOutOfBounds],
        "call stack exhausted" => &[Trap::StackOverflow],
        "out of bounds array access" => &[Trap::ArrayOutOfBounds],
        "cast failure" => &[Trap::CastFailure],
        // With or without ` element`, and with or without which one.
        reason if reason.starts_with("undefined") => &[Trap::TableOutOfBounds],
        reason if reason.starts_with("uninitialized") => &[Trap::IndirectCallToNull],
        reason if reason.starts_with("indirect call") => &[Trap::BadSignature],
        reason if reason.starts_with("null ") => &[Trap::NullReference],
        _ => bail!("nobody knows a trap `{reason}`"),
    };
    match error.downcast_ref() {
        Some(trap) if expected.contains(trap) => Ok(()),
        _ => bail!("`{reason}` is expected, not {error:?}"),
    }
}
