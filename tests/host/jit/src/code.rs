//! Two compiled functions and the `.eh_frame` that Cranelift has for them.
//!
//! ```text
//!   FunctionBuilder ─► machine code ─┬─► memory
//!                                    └─► UnwindInfo ─► FrameTable ─► .eh_frame ─► __register_frame
//! ```

use cranelift_codegen::Context;
use cranelift_codegen::gimli::RunTimeEndian;
use cranelift_codegen::gimli::write::{Address, EhFrame, EndianVec, FrameTable};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, InstBuilder, Signature, StackSlotData, StackSlotKind, Value, types,
};
use cranelift_codegen::isa::unwind::UnwindInfo;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, default_libcall_names};

unsafe extern "C" {
    fn __register_frame(begin: *const u8);
    fn __deregister_frame(begin: *const u8);
}

type Callback = extern "C-unwind" fn(i64) -> i64;

/// A function that was compiled, before it has an address.
struct Compiled {
    name: &'static str,
    id: FuncId,
    size: usize,
    unwind: UnwindInfo,
}

/// Compiled functions.
pub struct Code {
    /// Name, address, size.
    functions: Vec<(&'static str, usize, usize)>,
    eh_frame: Vec<u8>,
}

impl Code {
    /// Compiles `nest(callback, n)`, which calls itself n times and then `leaf(callback, n)`.
    pub fn compile() -> Self {
        let mut flags = settings::builder();
        flags.set("unwind_info", "true").unwrap();
        flags.set("opt_level", "speed").unwrap();
        let isa = cranelift_native::builder().unwrap().finish(settings::Flags::new(flags)).unwrap();
        let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        let mut signature = module.make_signature();
        signature.params.extend([AbiParam::new(types::I64); 2]);
        signature.returns.push(AbiParam::new(types::I64));
        let mut declare = |name| module.declare_function(name, Linkage::Local, &signature).unwrap();
        let (leaf, nest) = (declare("leaf"), declare("nest"));
        let compiled = [
            define(&mut module, &signature, "leaf", leaf, |builder, module, callback, n| {
                let mut takes = module.make_signature();
                takes.params.push(AbiParam::new(types::I64));
                takes.returns.push(AbiParam::new(types::I64));
                let takes = builder.import_signature(takes);
                let call = builder.ins().call_indirect(takes, callback, &[n]);
                builder.inst_results(call)[0]
            }),
            define(&mut module, &signature, "nest", nest, |builder, module, callback, n| {
                let [itself, leaf] =
                    [nest, leaf].map(|id| module.declare_func_in_func(id, builder.func));
                let [again, end, done] = [0; 3].map(|_| builder.create_block());
                let result = builder.append_block_param(done, types::I64);
                let is_zero = builder.ins().icmp_imm_s(IntCC::Equal, n, 0);
                builder.ins().brif(is_zero, end, &[], again, &[]);
                for (block, callee) in [(again, itself), (end, leaf)] {
                    builder.switch_to_block(block);
                    let n = if block == end { n } else { builder.ins().iadd_imm_s(n, -1) };
                    let call = builder.ins().call(callee, &[callback, n]);
                    let value = builder.inst_results(call)[0];
                    builder.ins().jump(done, &[value.into()]);
                }
                builder.switch_to_block(done);
                result
            }),
        ];
        module.finalize_definitions().unwrap();
        Self::with_tables(&module, &compiled)
    }

    fn with_tables(module: &JITModule, compiled: &[Compiled]) -> Self {
        let mut table = FrameTable::default();
        let cie = table.add_cie(module.isa().create_systemv_cie().unwrap());
        let mut functions = Vec::new();
        for each in compiled {
            let address = module.get_finalized_function(each.id).addr();
            functions.push((each.name, address, each.size));
            let UnwindInfo::SystemV(info) = &each.unwind else { panic!("not System V") };
            table.add_fde(cie, info.to_fde(Address::Constant(address as u64)));
        }
        let mut eh_frame = EhFrame(EndianVec::new(RunTimeEndian::Little));
        table.write_eh_frame(&mut eh_frame).unwrap();
        let mut eh_frame = eh_frame.0.into_vec();
        // The terminator.
        eh_frame.extend([0; 4]);
        // The functions stay in memory: nobody says that they be freed.
        Self { functions, eh_frame }
    }

    /// Makes the functions' frames known to the unwinder.
    pub fn register(&self) {
        // SAFETY: a whole section, of code that stays.
        unsafe { __register_frame(self.eh_frame.as_ptr()) }
    }

    /// Undoes that.
    pub fn deregister(&self) {
        // SAFETY: it was registered.
        unsafe { __deregister_frame(self.eh_frame.as_ptr()) }
    }

    /// Calls `nest`.
    pub fn call(&self, callback: Callback, n: i64) -> i64 {
        type Nest = extern "C-unwind" fn(Callback, i64) -> i64;
        let (_, address, _) = self.functions[1];
        // SAFETY: this is what was compiled there.
        let nest = unsafe { std::mem::transmute::<usize, Nest>(address) };
        nest(callback, n)
    }

    /// The function around a return address.
    pub fn name(&self, ip: usize) -> Option<&'static str> {
        let around = |&&(_, start, size): &&(_, usize, usize)| (start..=start + size).contains(&ip);
        self.functions.iter().find(around).map(|&(name, ..)| name)
    }
}

/// Compiles a function of `callback` and `n` around `call`, with values that live across it.
fn define(
    module: &mut JITModule,
    signature: &Signature,
    name: &'static str,
    id: FuncId,
    call: impl FnOnce(&mut FunctionBuilder<'_>, &mut JITModule, Value, Value) -> Value,
) -> Compiled {
    let mut context = Context::new();
    context.func.signature = signature.clone();
    let mut parts = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut parts);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let &[callback, n] = builder.block_params(entry) else { panic!("two parameters") };
    let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, 72, 3);
    let slot = builder.create_sized_stack_slot(slot);
    builder.ins().stack_store(types::I64, n, slot, 64);
    let kept: Vec<_> = (1..=4).map(|i| builder.ins().imul_imm_s(n, i * 3)).collect();
    let mut sum = call(&mut builder, module, callback, n);
    for value in kept {
        sum = builder.ins().iadd(sum, value);
    }
    let stored = builder.ins().stack_load(types::I64, types::I64, slot, 64);
    sum = builder.ins().iadd(sum, stored);
    builder.ins().return_(&[sum]);
    builder.seal_all_blocks();
    builder.finalize(module.target_config());
    module.define_function(id, &mut context).unwrap();
    let code = context.compiled_code().unwrap();
    let size = code.code_info().total_size as usize;
    let unwind = code.create_unwind_info(module.isa()).unwrap().unwrap();
    Compiled { name, id, size, unwind }
}
