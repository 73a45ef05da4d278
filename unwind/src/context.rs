//! One frame as a personality function sees it.
//!
//! ```text
//!   Context │ cursor: registers, pc, stack │ what is known of the function │ control words │
//!     look ─► known ─ ask the personality ─► leave ─► the caller's frame, look …
//!                            └─► sets registers and ip ─► land
//! ```

use core::mem::MaybeUninit;

use crate::address::Pc;
use crate::answer::{Answer, Unasked};
use crate::arch::{self, ControlWords, copied};
use crate::cache::Trail;
use crate::cursor::{Cursor, Exit, Step};
use crate::encoding::Pointer;
use crate::environment::{Everywhere, LiveStack};
use crate::error::{RaiseError, UnwindError};
use crate::exception::{Actions, Exception, Personality, Reason};
use crate::glide::{Glide, trail_to};
use crate::guess::FrameKind;
use crate::in_flight::Path;
use crate::known::{Known, Lsda};
use crate::lsda::{self, Action};
use crate::registers::{Register, Registers};
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
    /// What the stack is given back with, if somebody has been asked since.
    control: Option<ControlWords>,
    exit: Exit,
    /// It has no tables, but a frame pointer.
    guessed: bool,
    /// A frame that has a cleanup was passed without being asked.
    passed_cleanup: bool,
}

impl Context {
    /// The frame where a cursor with these registers stands. [`look`](Self::look) before use.
    ///
    /// Made in place, and filled by functions that need their own stack only for a moment.
    #[inline(always)]
    pub(crate) fn new(registers: &Registers, pc: Pc, stack: StackBounds) -> Self {
        let (trail, stack) = (trail_to(pc.lookup()), LiveStack::new(stack));
        let cursor = Cursor::on(trail, copied(registers), pc, stack, &Everywhere);
        let (known, exit, guessed, passed_cleanup) = (Known::NOTHING, Exit::Dwarf, false, false);
        Self { cursor, known, exit, cfa: 0, control: None, guessed, passed_cleanup }
    }

    /// In this room, the frame with these registers, which is at a call, and what is known of it; to which
    /// this trail leads.
    #[inline(always)]
    pub(crate) fn on<'c>(
        room: &'c mut MaybeUninit<Self>,
        registers: &Registers,
        stack: StackBounds,
        trail: &Trail,
        known: &Known,
    ) -> &'c mut Self {
        let place = room.as_mut_ptr();
        // SAFETY: registers fit there.
        unsafe { (&raw mut (*place).cursor.registers).write(copied(registers)) };
        // SAFETY: nobody else uses the room.
        unsafe { Self::put_known(place, copied(known)) };
        // SAFETY: as above; the registers are there, and what is known.
        unsafe { Self::around(place, stack, copied(trail)) }
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

    /// As [`on`](Self::on), around registers that are there already, of a frame at a call, and what is
    /// known of it.
    ///
    /// # Safety
    ///
    /// `place` is valid for a whole context as long as it is used, by nobody else; it begins with
    /// registers, and [`put_known`](Self::put_known) has been called.
    #[inline(always)]
    pub(crate) unsafe fn around<'c>(
        place: *mut Self,
        stack: StackBounds,
        trail: Trail,
    ) -> &'c mut Self {
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
            cursor.stack = LiveStack::new(stack);
            cursor.modules = &Everywhere;
            cursor.descents = 0;
            cursor.guesses = false;
            cursor.kind = FrameKind::Known;
            cursor.trail = trail;
            exit = Exit::Rule;
            cfa = 0;
            control = None;
            guessed = false;
            passed_cleanup = false;
        }
        // SAFETY: all fields have been written, here or before (contract).
        unsafe { &mut *place }
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

    /// The frame where it stands is known: counts it as one on the way.
    #[inline(always)]
    pub(crate) fn begin_known(&mut self, path: &mut Path) {
        path.add(self.known.module());
        self.cfa = self.known.rule.cfa(self.cursor.registers());
    }

    /// Whether a frame that has a cleanup was passed without being asked.
    pub(crate) const fn passed_cleanup(&self) -> bool {
        self.passed_cleanup
    }

    /// Moves on to the next frame whose personality must be asked, and finds out about it: maybe the one
    /// where it stands, unless that was `asked`. With a `handler`, which is a CFA, also a frame that has
    /// that one, or that has a cleanup; without, the latter are passed. `path` gets the modules of those up
    /// to there.
    ///
    /// Part of the loops that call it, as [`look`](Self::look): once in each, because it is large. With
    /// `SPARING`, what it needs to glide is on the stack only meanwhile.
    #[inline(always)]
    pub(crate) fn seek<const SPARING: bool>(
        &mut self,
        mut asked: bool,
        handler: u64,
        path: &mut Path,
    ) -> Result<Step, UnwindError> {
        loop {
            let glided = match SPARING {
                true => self.glide_apart(asked, handler, path),
                false => self.glide(asked, handler, path),
            };
            match glided {
                Glided::There => break,
                Glided::Nowhere if self.leave()? == Step::End => return Ok(Step::End),
                Glided::Nowhere => asked = false,
                Glided::Unknown => {
                    self.look()?;
                    path.add(self.known.module());
                    match Unasked::now().answer(&self.known, self.pc()) {
                        Answer::Nothing if self.cfa != handler => {}
                        Answer::Cleanup(_) if handler == 0 => self.passed_cleanup = true,
                        _ => break,
                    }
                    asked = true;
                }
            }
        }
        Ok(Step::Caller { cfa: self.cfa })
    }

    /// As [`seek`](Self::seek), as far as frames are remembered.
    #[inline(always)]
    fn glide(&mut self, asked: bool, handler: u64, path: &mut Path) -> Glided {
        let cursor = &mut self.cursor;
        let mut end = if asked { Glided::Nowhere } else { Glided::Unknown };
        if asked && self.exit == Exit::Dwarf {
            return end;
        }
        let begun = Glide::new(&cursor.registers, cursor.pc, &cursor.stack, &mut cursor.trail);
        let Some(mut glide) = begun else { return end };
        let unasked = Unasked::now();
        let mut rule = asked.then_some(self.known.rule);
        loop {
            if let Some(rule) = rule {
                if !glide.leave_with(rule, &mut cursor.registers) {
                    if end == Glided::Unknown {
                        // Its entry must not come to expect itself.
                        cursor.trail = Trail::START;
                    }
                    return end;
                }
                cursor.pc = Pc::Return(cursor.registers.ip());
                end = Glided::Unknown;
            }
            let Some(known) = glide.look(&mut cursor.trail) else { return end };
            path.add(known.module());
            let cfa = glide.cfa(known.rule);
            let goes_on = match unasked.answer(&known, cursor.pc) {
                Answer::Nothing => cfa != handler,
                Answer::Cleanup(_) if handler == 0 => {
                    self.passed_cleanup = true;
                    true
                }
                _ => false,
            };
            if !goes_on {
                (self.known, self.cfa, self.exit) = (known, cfa, Exit::Rule);
                return Glided::There;
            }
            rule = Some(known.rule);
        }
    }

    #[inline(never)]
    fn glide_apart(&mut self, asked: bool, handler: u64, path: &mut Path) -> Glided {
        self.glide(asked, handler, path)
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

    /// Keeps the control words for the frames, if that has not been done: whoever is asked may leave
    /// others.
    #[inline(always)]
    pub(crate) fn keep_control(&mut self) {
        self.control.get_or_insert_with(ControlWords::current);
    }

    /// Asks the personality of the frame; a frame without one goes on.
    ///
    /// # Safety
    ///
    /// `exception` is a valid exception.
    #[inline(always)]
    pub(crate) unsafe fn ask(&mut self, actions: Actions, exception: *mut Exception) -> Reason {
        let Some(personality) = personality(&self.known) else {
            return Reason::CONTINUE_UNWIND;
        };
        // SAFETY: the exception is valid (contract).
        let class = unsafe { (*exception).class };
        // SAFETY: a personality routine takes these arguments (Itanium EH §1.6.1).
        unsafe { personality(ABI_VERSION, actions, class, exception, self) }
    }

    /// Whether the frame's personality is `wanted`.
    pub(crate) fn has_personality(&self, wanted: Personality) -> bool {
        personality(&self.known).is_some_and(|found| core::ptr::fn_addr_eq(found, wanted))
    }

    /// Continues in the frame, where its personality has set it to; what the frame pushed for
    /// the call is gone then.
    ///
    /// # Safety
    ///
    /// The personality of the frame has answered [`Reason::INSTALL_CONTEXT`].
    pub(crate) unsafe fn install(&mut self) -> ! {
        let pushed = self.known.rule.args_size();
        let sp = self.cursor.registers().sp().wrapping_add(pushed.into());
        self.set_register(Register::RSP, sp);
        if let Some(control) = self.control {
            control.restore();
        }
        // SAFETY: the personality chose the landing pad for this frame, whose registers these
        // are.
        unsafe { arch::land(self.cursor.registers()) }
    }

    /// Whether the word below the frame's CFA, its return address, can be read.
    pub(crate) fn is_on_stack(&self) -> bool {
        self.cursor.stack().read(self.cfa.wrapping_sub(8)).is_some()
    }

    /// Where the frame is executing.
    pub const fn pc(&self) -> Pc {
        self.cursor.pc()
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

/// Where gliding has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Glided {
    /// In a frame that was sought.
    There,
    /// In a frame of which nothing is remembered.
    Unknown,
    /// In the frame that was asked: leaving it takes more.
    Nowhere,
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

/// The personality routine of a function of a registered module.
fn personality(known: &Known) -> Option<Personality> {
    let address = target(known.personality()?);
    let address = core::ptr::with_exposed_provenance::<()>(address as usize);
    // SAFETY: registering a module vouches for its tables: where they name a personality, a
    // personality routine is. Null becomes `None`.
    unsafe { core::mem::transmute::<*const (), Option<Personality>>(address) }
}
