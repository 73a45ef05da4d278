//! Access to blocks by module number, and what happens when one cannot be made.
//!
//! ```text
//!  address, prepare                        ─► Err(AccessError)
//!  __tls_get_addr, a TLSDESC resolver      ─► the handler, which does not return
//! ```
//!
//! Compiled code cannot be told that an access failed. What can be prepared should be, where an
//! error has somewhere to go: [`prepare`], [`Area::prepare_all`](crate::Area::prepare_all),
//! [`Dynamic::prepare_live`](crate::Dynamic::prepare_live).

use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::abi::TlsIndex;
use crate::area::AreaRef;
use crate::error::AccessError;
use crate::modules::ModuleId;

/// Where the running task's byte at `offset` of a module's block is. Makes the block if need be.
///
/// # Errors
/// No published module has the number, or there is no memory for the block.
///
/// # Safety
/// The FS base holds the thread pointer of an [`Area`](crate::Area), and this is not an interrupt
/// handler.
pub unsafe fn address(module: ModuleId, offset: usize) -> Result<*mut u8, AccessError> {
    // SAFETY: The FS base holds that of an area (contract).
    let area = unsafe { AreaRef::current() };
    let block = match area.entry(module) {
        Some(block) => block,
        None => {
            // SAFETY: A running task has the area, and the registry stays (contract).
            let registry = unsafe { area.registry() };
            registry.block(area, module)?
        }
    };
    Ok(block.wrapping_add(offset))
}

/// Makes the running task's block of a module, unless it is there, so that later accesses cannot
/// fail.
///
/// # Errors
/// As [`address`].
///
/// # Safety
/// As [`address`].
pub unsafe fn prepare(module: ModuleId) -> Result<(), AccessError> {
    // SAFETY: The contract is the same.
    unsafe { address(module, 0) }.map(|_| ())
}

/// The handler, or null.
static HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Sets what happens when compiled code accesses a variable whose block cannot be made: `handler`
/// is called on the task, with the reason, and must not return, nor access such variables. It has
/// the stack of the access. The access is not undone, so unwinding is not possible.
///
/// Until one is set, the access panics where panics cannot unwind: the program's panic handler
/// reports the reason, and the program ends.
pub fn set_access_failure_handler(handler: fn(AccessError) -> !) {
    HANDLER.store(handler as *mut (), Ordering::Release);
}

#[cold]
fn fail(error: AccessError) -> ! {
    let handler = HANDLER.load(Ordering::Acquire);
    if handler.is_null() {
        panic!("{error}");
    }
    // SAFETY: Only `set_access_failure_handler` stores anything but null, and it stores this type.
    let handler = unsafe { mem::transmute::<*mut (), fn(AccessError) -> !>(handler) };
    handler(error)
}

/// The address of a variable, for compiled code, when the running task's vector does not have its
/// block. Does not return if there is none.
///
/// # Safety
/// `index` is valid for reads, and [`address`] may be called.
#[cold]
pub(crate) unsafe extern "C" fn make_block(index: *const TlsIndex) -> *mut u8 {
    // SAFETY: Valid (contract).
    let TlsIndex { module, offset } = unsafe { index.read() };
    let Some(id) = ModuleId::new(module) else { fail(AccessError::NoSuchModule { module }) };
    // SAFETY: The contract is the same.
    match unsafe { address(id, offset) } {
        Ok(address) => address,
        Err(error) => fail(error),
    }
}
