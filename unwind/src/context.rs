//! One frame as a personality function sees it.
//!
//! ```text
//!   Context │ cursor: registers, pc, stack │ what is known of the function │ control words │
//!     look ─► known ─ ask the personality ─► leave ─► the caller's frame, look …
//!                            └─► sets registers and ip ─► land
//! ```

use crate::address::Pc;
use crate::answer;
use crate::arch::{self, ControlWords, copied};
use crate::cache::{Hint, Trail};
use crate::cursor::{Cursor, Exit, Step};
use crate::encoding::Pointer;
use crate::environment::{Everywhere, LiveStack};
use crate::error::{RaiseError, UnwindError};
use crate::exception::{Actions, Exception, Personality, Reason};
use crate::glide::{Glide, trail_to};
use crate::guess::FrameKind;
use crate::known::{Known, Lsda};
use crate::lsda::{self, Action};
use crate::registers::{Changed, Register, Registers};
use crate::stack::{ReadStack, StackBounds};

/// The version of the personality interface (Itanium EH §1.6.1).
pub(crate) const ABI_VERSION: i32 = 1;

/// Has registers and pc be those of the nearest frame that is at a call. Gives back the stack that this
/// took.
#[inline(never)]
pub(crate) fn leave_interrupted(
    registers: &mut Registers,
    pc: &mut Pc,
    stack: StackBounds,
) -> Result<(), RaiseError> {
    let mut frame = Context::new(registers, *pc, stack);
    // Beyond a frame that an interrupt made comes one that was interrupted.
    while let Pc::Exact(_) = frame.pc() {
        frame.look()?;
        if frame.leave()? == Step::End {
            return Err(RaiseError::EndOfStack);
        }
    }
    (*registers, *pc) = (*frame.registers(), frame.pc());
    Ok(())
}

/// One frame as a personality function sees it (`struct _Unwind_Context`).
///
/// It begins with the registers: where they are captured, a context can be made around them.
#[repr(C)]
pub struct Context {
    pub(crate) cursor: Cursor<'static, LiveStack, Everywhere>,
    known: Known,
    cfa: u64,
    /// What the stack is given back with: whoever is asked may leave others.
    control: ControlWords,
    exit: Exit,
    /// It has no tables, but a frame pointer.
    guessed: bool,
}

impl Context {
    /// The frame where a cursor with these registers stands. [`look`](Self::look) before use.
    ///
    /// Made in place, and filled by functions that need their own stack only for a moment.
    #[inline(always)]
    pub(crate) fn new(registers: &Registers, pc: Pc, stack: StackBounds) -> Self {
        let (trail, stack) = (trail_to(pc.lookup()), LiveStack::new(stack));
        let cursor = Cursor::on(trail, copied(registers), pc, stack, &Everywhere);
        let (known, exit, guessed) = (Known::NOTHING, Exit::Dwarf, false);
        let control = ControlWords::NONE;
        Self { cursor, known, exit, cfa: 0, control, guessed }
    }

    /// Notes what is known of the frame, before the rest of the context is there.
    ///
    /// # Safety
    ///
    /// `place` is valid for writes of a whole context, and nobody else uses it.
    #[inline(always)]
    pub(crate) unsafe fn put_known(place: *mut Self, known: Known) {
        // SAFETY: the place is valid (contract).
        unsafe { (&raw mut (*place).known).write(known) };
    }

    /// Notes the stack, before the rest of the context is there.
    ///
    /// # Safety
    ///
    /// As [`put_known`](Self::put_known).
    #[inline(always)]
    pub(crate) unsafe fn put_stack(place: *mut Self, stack: StackBounds) {
        // SAFETY: the place is valid (contract).
        unsafe { (&raw mut (*place).cursor.stack).write(LiveStack::new(stack)) };
    }

    /// Around registers that are there already, of a frame at a call with this CFA, and what is known of it.
    /// Keeps the control words.
    ///
    /// # Safety
    ///
    /// `place` is valid for a whole context as long as it is used, by nobody else; it begins with
    /// registers, and [`put_known`](Self::put_known) and [`put_stack`](Self::put_stack) have been called.
    #[inline(always)]
    pub(crate) unsafe fn around<'c>(place: *mut Self, trail: Trail, cfa: u64) -> &'c mut Self {
        // SAFETY: the registers are there (contract).
        let ip = unsafe { (*place).cursor.registers.ip() };
        macro_rules! put {
            ($($($field:ident).+ = $value:expr;)*) => {$(
                // SAFETY: the place is valid (contract).
                unsafe { (&raw mut (*place).$($field).+).write($value) };
            )*};
        }
        put! {
            cursor.pc = Pc::Return(ip);
            cursor.modules = &Everywhere;
            cursor.descents = 0;
            cursor.guesses = false;
            cursor.kind = FrameKind::Known;
            cursor.trail = trail;
            exit = Exit::Rule;
            cfa = cfa;
            guessed = false;
        }
        // SAFETY: there is room for them.
        unsafe { ControlWords::keep(&raw mut (*place).control) };
        // SAFETY: all fields have been written, here or before (contract).
        unsafe { &mut *place }
    }

    /// The context at this place of a frame at a call, with this CFA, whether it `is_made` already or not.
    ///
    /// # Safety
    ///
    /// As [`around`](Self::around).
    #[inline(always)]
    pub(crate) unsafe fn at<'c>(place: *mut Self, is_made: bool, cfa: u64) -> &'c mut Self {
        if !is_made {
            // SAFETY: the caller's promise.
            return unsafe { Self::around(place, Trail::START, cfa) };
        }
        // SAFETY: as above: all of it has been written.
        let frame = unsafe { &mut *place };
        frame.cursor.pc = Pc::Return(frame.cursor.registers.ip());
        (frame.cfa, frame.exit) = (cfa, Exit::Rule);
        frame
    }

    /// The registers of the frame.
    pub(crate) const fn registers(&self) -> &Registers {
        self.cursor.registers()
    }

    /// Finds out about the frame where the cursor stands.
    ///
    /// Part of the loops that call it: their callees then begin on one frame less.
    #[inline(always)]
    pub(crate) fn look(&mut self) -> Result<(), UnwindError> {
        if self.recall() {
            return Ok(());
        }
        self.exit = self.cursor.find_out(&mut self.known)?;
        self.cfa = match self.exit {
            Exit::Rule => self.known.rule.cfa(self.cursor.registers()),
            Exit::Dwarf => self.cursor.cfa_by_dwarf()?,
        };
        Ok(())
    }

    /// Whether the frame's address was asked for before: then everything is known.
    #[inline(never)]
    fn recall(&mut self) -> bool {
        let recalled = self.cursor.recall(&mut self.known);
        if recalled {
            self.cfa = self.known.rule.cfa(self.cursor.registers());
            self.exit = Exit::Rule;
        }
        recalled
    }

    /// Moves to the caller's frame, if there is one.
    #[inline(always)]
    pub(crate) fn leave(&mut self) -> Result<Step, UnwindError> {
        match self.exit {
            Exit::Rule => self.cursor.leave_by(&self.known.rule),
            Exit::Dwarf => self.cursor.leave_by_dwarf(),
        }
    }

    /// Goes back to the frame with these registers; the rest of the context is of no frame then.
    #[inline(always)]
    pub(crate) fn begin_again(&mut self, registers: &Changed) {
        self.cursor.registers_mut().go_back_to(registers);
    }

    /// Whether what is known of the stack is what it was.
    pub(crate) fn is_on(&self, known: StackBounds) -> bool {
        self.cursor.stack().is(known)
    }

    /// Where the walk is in the cache.
    pub(crate) const fn hint(&self) -> Hint {
        self.cursor.trail.hint()
    }

    /// A way up through frames that are remembered, from where the cursor stands.
    #[inline(always)]
    pub(crate) fn glide(&self, trail: &mut Trail) -> Option<Glide> {
        Glide::new(self.registers(), self.pc(), self.cursor.stack(), trail)
    }

    /// From now on, frames without tables may be left by their frame pointer.
    pub(crate) fn allow_guesses(&mut self) {
        self.cursor.allow_guesses();
    }

    /// Looks at the frame, or at what is beyond the last one: whether there is none.
    ///
    /// Code without tables is where a walk ends, as beyond the outermost frame.
    pub(crate) fn look_or_end(&mut self) -> Result<bool, UnwindError> {
        if self.register(Register::RA) == 0 {
            return Ok(true);
        }
        match self.look() {
            Ok(()) => {
                self.guessed = false;
                Ok(false)
            }
            Err(error @ (UnwindError::NoModule(_) | UnwindError::NoFde(_))) => {
                self.known = Known::NOTHING;
                let Ok((_, cfa)) = self.cursor.guess(error) else { return Ok(true) };
                (self.cfa, self.guessed) = (cfa, true);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves to the caller's frame, or beyond the last one, where the ip is zero.
    pub(crate) fn leave_or_end(&mut self) -> Result<(), UnwindError> {
        let step = if self.guessed { self.cursor.step()? } else { self.leave()? };
        if step == Step::End {
            self.known = Known::NOTHING;
            self.set_ip(0);
        }
        Ok(())
    }

    /// Keeps the control words for the frame that something lands in. Before anybody is asked in a phase
    /// in which something may land.
    #[inline(always)]
    pub(crate) fn keep_control(&mut self) {
        // SAFETY: there is room for them.
        unsafe { ControlWords::keep(&mut self.control) };
    }

    /// Asks the personality of the frame; a frame without one goes on.
    ///
    /// # Safety
    ///
    /// `exception` is a valid exception.
    #[inline(always)]
    pub(crate) unsafe fn ask(&mut self, actions: Actions, exception: *mut Exception) -> Reason {
        match answer::personality(&self.known) {
            0 => Reason::CONTINUE_UNWIND,
            // SAFETY: handed on to the caller; the personality is the frame's.
            personality => unsafe { self.ask_at(personality, actions, exception) },
        }
    }

    /// Asks the personality of the frame, which is at this address.
    ///
    /// # Safety
    ///
    /// As [`ask`](Self::ask), and it is, and not 0.
    #[inline(always)]
    pub(crate) unsafe fn ask_at(
        &mut self,
        personality: u64,
        actions: Actions,
        exception: *mut Exception,
    ) -> Reason {
        let personality = core::ptr::with_exposed_provenance::<()>(personality as usize);
        // SAFETY: registering a module vouches for its tables: where they name a personality, a
        // personality routine is; and this is not null (contract).
        let personality = unsafe { core::mem::transmute::<*const (), Personality>(personality) };
        // SAFETY: the exception is valid (contract).
        let class = unsafe { (*exception).class };
        // SAFETY: a personality routine takes these arguments (Itanium EH §1.6.1).
        unsafe { personality(ABI_VERSION, actions, class, exception, self) }
    }

    /// Whether the frame's personality is `wanted`.
    pub(crate) fn has_personality(&self, wanted: Personality) -> bool {
        answer::personality(&self.known) == wanted as usize as u64
    }

    /// Continues in the frame, where its personality has set it to; what the frame pushed for
    /// the call is gone then.
    ///
    /// # Safety
    ///
    /// The personality of the frame has answered [`Reason::INSTALL_CONTEXT`].
    #[inline(always)]
    pub(crate) unsafe fn install(&mut self) -> ! {
        let pushed = self.known.rule.args_size();
        let sp = self.cursor.registers().sp().wrapping_add(pushed.into());
        self.set_register(Register::RSP, sp);
        self.control.restore();
        // SAFETY: the personality chose the landing pad for this frame, whose registers these
        // are.
        unsafe { arch::land(self.cursor.registers()) }
    }

    /// Whether the word below the frame's CFA, its return address, can be read.
    pub(crate) fn is_on_stack(&self) -> bool {
        let stack = self.cursor.stack();
        let is_known = stack.words_below(self.cfa, 1).is_some();
        is_known || stack.read(self.cfa.wrapping_sub(8)).is_some()
    }

    /// Where the frame is executing.
    pub const fn pc(&self) -> Pc {
        self.cursor.pc()
    }

    pub(crate) const fn known(&self) -> &Known {
        &self.known
    }

    /// How the frame is left.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether the caller may be a frame that was interrupted.
    pub(crate) fn may_be_of_signal(&self) -> bool {
        self.exit == Exit::Dwarf || self.known.rule.is_of_signal_frame()
    }

    /// Where the walk is in the cache.
    pub(crate) const fn trail(&self) -> Trail {
        self.cursor.trail
    }

    /// What is remembered of the frames before it leads there.
    pub(crate) const fn set_trail(&mut self, trail: Trail) {
        self.cursor.trail = trail;
    }

    /// How the frame was found.
    pub const fn kind(&self) -> FrameKind {
        self.cursor.kind()
    }

    /// The frame's CFA.
    pub const fn cfa(&self) -> u64 {
        self.cfa
    }

    /// The first address of the frame's function.
    pub const fn region_start(&self) -> u64 {
        self.known.start
    }

    /// The function's LSDA, to the end of the module's LSDAs, if it lies there.
    pub fn lsda(&self) -> Option<&'static [u8]> {
        let Lsda { pointer, length } = self.known.lsda().filter(|lsda| lsda.length != 0)?;
        let first = core::ptr::with_exposed_provenance(target(pointer) as usize);
        // SAFETY: the address and what the module has from there on came from a registered
        // module, whose slices stay valid while frames of it are on a stack, as this one is.
        Some(unsafe { core::slice::from_raw_parts(first, length as usize) })
    }

    /// The function's LSDA's address, also if it lies outside the module's LSDAs.
    pub fn lsda_address(&self) -> Option<u64> {
        self.known.lsda().map(|lsda| target(lsda.pointer))
    }

    /// What the function's LSDA says of the frame, in the way that languages without types of
    /// exceptions agree on. A function without an area has nothing to do.
    ///
    /// # Errors
    ///
    /// The area is damaged, or has an encoding that is not known.
    #[inline]
    pub fn action(&self) -> gimli::Result<Action> {
        match self.known.action() {
            Some(action) => Ok(action),
            None => self.read_action(),
        }
    }

    #[cold]
    fn read_action(&self) -> gimli::Result<Action> {
        let (Some(data), Some(address)) = (self.lsda(), self.lsda_address()) else {
            return Ok(Action::None);
        };
        let lsda = lsda::Lsda { data, address, function: self.region_start() };
        lsda.action(self.pc().lookup())
    }

    /// A register of the frame. What no callee has saved is only known for callee-saved ones.
    pub const fn register(&self, register: Register) -> u64 {
        self.cursor.registers().get(register)
    }

    /// Sets a register for the landing pad. `rax` and `rdx` carry the exception and the selector
    /// (psABI x86-64 §6.2.1).
    pub const fn set_register(&mut self, register: Register, value: u64) {
        self.cursor.registers_mut().set(register, value);
    }

    /// Sets where to land.
    pub const fn set_ip(&mut self, address: u64) {
        self.cursor.registers_mut().set(Register::RA, address);
    }
}

/// Where a pointer in the tables of a registered module leads.
#[inline(always)]
pub(crate) fn target(pointer: Pointer) -> u64 {
    match pointer {
        Pointer::Direct(address) => address,
        Pointer::Indirect(slot) => {
            let slot = core::ptr::with_exposed_provenance::<u64>(slot as usize);
            // SAFETY: registering a module vouches for its tables, and so for the word in its
            // data through which they name something (`DW.ref.…`).
            unsafe { slot.read_unaligned() }
        }
    }
}
