//! Takes a stack frame by frame, and says why it ended.
//!
//! ```text
//!   here ─► caller ─► caller ─► … ─► End::{Outermost, Error, …}
//! ```
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::ControlFlow;

use crate::print::{Style, print_frames};
use crate::symbolize::Symbolize;
use unspool_unwind::{Cursor, FindModule, Pc, ReadStack, Step, UnwindError};

/// One frame of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the frame is executing.
    pub pc: Pc,
    /// The frame's stack pointer.
    pub sp: u64,
    /// How it came to have a frame below it.
    pub kind: FrameKind,
}

/// How a frame was left, that is to say what the frame before it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// It called a function.
    Call,
    /// It was interrupted, by a fault, an interrupt or a signal: the frame before it is the handler's
    /// on the same stack, or whoever took the trace asked for an interrupted place.
    Interrupted,
    /// It was interrupted, and the handler has a stack of its own.
    OtherStack,
    /// The frame before it has no tables, and its frame pointer led here: the frame may be another
    /// one's.
    Guessed,
}

/// Why a trace has no further frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The outermost frame was reached.
    Outermost,
    /// The frame's caller cannot be found.
    Error(UnwindError),
    /// Whoever took the trace had room for no more.
    Full,
}

/// A handler's stack and another one have at least a page between them that nobody can read.
const LEAST_GAP: usize = 4096;
/// What is further apart than this, in bytes, is not on one stack.
const LARGEST_STACK: u64 = 64 << 20;

/// The frames of a stack, innermost first.
pub struct Trace<'m, S, M> {
    cursor: Cursor<'m, S, M>,
    started: bool,
    end: Option<End>,
}

impl<S: Copy, M> Clone for Trace<'_, S, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Copy, M> Copy for Trace<'_, S, M> {}

impl<'m, S: ReadStack, M: FindModule> Trace<'m, S, M> {
    /// The frames from where the cursor stands.
    pub const fn new(cursor: Cursor<'m, S, M>) -> Self {
        Self { cursor, started: false, end: None }
    }

    /// Why the trace ended, once [`next`](Iterator::next) has returned `None`.
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Shows `visit` the frames that are left, until it breaks.
    ///
    /// As [`next`](Iterator::next) in a loop, and faster where the frames' addresses have been asked
    /// for before: see [`Cursor::walk`].
    pub fn walk(&mut self, mut visit: impl FnMut(Frame) -> ControlFlow<()>) {
        if !self.started {
            self.started = true;
            if visit(self.frame(None)).is_break() {
                return;
            }
        }
        while self.end.is_none() {
            let mut below = self.cursor.registers().sp();
            let walked = self.cursor.walk(|frame| {
                let (pc, sp) = (frame.pc(), frame.sp());
                // Of others the cursor has more to say than what is at hand here.
                let Pc::Return(_) = pc else { return ControlFlow::Break(None) };
                if frame.kind() == unspool_unwind::FrameKind::Guess {
                    return ControlFlow::Break(None);
                }
                below = sp;
                visit(Frame { pc, sp, kind: FrameKind::Call }).map_break(Some)
            });
            match walked {
                Ok(Some(Some(()))) => return,
                Ok(Some(None)) if visit(self.frame(Some(below))).is_break() => return,
                Ok(Some(None)) => {}
                Ok(None) => self.end = Some(End::Outermost),
                Err(error) => self.end = Some(End::Error(error)),
            }
        }
    }

    /// The frame where the cursor stands; `below` is the stack pointer of the one before it.
    fn frame(&self, below: Option<u64>) -> Frame {
        let (pc, sp) = (self.cursor.pc(), self.cursor.registers().sp());
        let kind = match (pc, below) {
            _ if self.cursor.kind() == unspool_unwind::FrameKind::Guess => FrameKind::Guessed,
            (Pc::Return(_), _) => FrameKind::Call,
            (Pc::Exact(_), Some(below)) if !self.joined(below, sp) => FrameKind::OtherStack,
            (Pc::Exact(_), _) => FrameKind::Interrupted,
        };
        Frame { pc, sp, kind }
    }

    /// Whether two stack pointers are on one stack: everything between them can be read.
    fn joined(&self, below: u64, above: u64) -> bool {
        let stack = self.cursor.stack();
        above >= below
            && above - below <= LARGEST_STACK
            && (below & !7..above).step_by(LEAST_GAP).all(|address| stack.read(address).is_some())
    }
}

impl<S: ReadStack, M: FindModule> Iterator for Trace<'_, S, M> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        if !self.started {
            self.started = true;
            return Some(self.frame(None));
        }
        if self.end.is_some() {
            return None;
        }
        let below = self.cursor.registers().sp();
        match self.cursor.step() {
            Ok(Step::Caller { .. }) => Some(self.frame(Some(below))),
            Ok(Step::End) => {
                self.end = Some(End::Outermost);
                None
            }
            Err(error) => {
                self.end = Some(End::Error(error));
                None
            }
        }
    }
}

/// Up to `N` frames, kept: taken now, printed later.
#[derive(Clone, Copy, Debug)]
pub struct Captured<const N: usize> {
    frames: [Frame; N],
    len: usize,
    end: End,
}

impl<const N: usize> Captured<N> {
    /// Takes the first `N` frames of a trace.
    pub fn take<S: ReadStack, M: FindModule>(mut trace: Trace<'_, S, M>) -> Self {
        let mut captured = Self { end: End::Full, ..Self::none() };
        if N != 0 {
            trace.walk(|frame| {
                captured.frames[captured.len] = frame;
                captured.len += 1;
                if captured.len == N { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        // A full array leaves the trace's end open.
        captured.end = trace.end().unwrap_or(End::Full);
        captured
    }

    /// No frame, because there is no stack to take one from.
    pub const fn none() -> Self {
        let none = Frame { pc: Pc::Exact(0), sp: 0, kind: FrameKind::Call };
        Self { frames: [none; N], len: 0, end: End::Outermost }
    }

    /// Prints the frames as [`print`](crate::print()) does.
    ///
    /// # Errors
    ///
    /// Only those of `out`.
    pub fn print(
        &self,
        out: &mut dyn fmt::Write,
        style: Style,
        symbols: &dyn Symbolize,
    ) -> fmt::Result {
        print_frames(out, self.frames(), self.end, style, symbols)
    }

    /// The frames, innermost first.
    pub fn frames(&self) -> &[Frame] {
        &self.frames[..self.len]
    }

    /// Why there are no more.
    pub const fn end(&self) -> End {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unspool_unwind::{Modules, NoStack, Registers};

    fn lost() -> Trace<'static, NoStack, Modules> {
        static NONE: Modules = Modules::new();
        Trace::new(Cursor::new(Registers::new(), Pc::Exact(0x1234), NoStack, &NONE))
    }

    #[test]
    fn a_trace_has_its_first_frame_even_where_nothing_is_known() {
        let mut trace = lost();
        assert_eq!(trace.next().unwrap().pc, Pc::Exact(0x1234));
        assert_eq!(trace.end(), None);
        assert_eq!(trace.next(), None);
        assert_eq!(trace.end(), Some(End::Error(UnwindError::NoModule(0x1234))));
        assert_eq!(trace.next(), None);
    }

    #[test]
    fn a_capture_knows_whether_it_is_whole() {
        let whole = Captured::<4>::take(lost());
        assert_eq!(whole.frames().len(), 1);
        assert_eq!(whole.end(), End::Error(UnwindError::NoModule(0x1234)));
        let full = Captured::<1>::take(lost());
        assert_eq!(full.frames().len(), 1);
        assert_eq!(full.end(), End::Full);
    }

    #[test]
    fn a_stack_that_cannot_be_read_through_is_another_stack() {
        /// Two stacks of two pages with an unreadable one between them.
        struct Two;
        impl ReadStack for Two {
            fn read(&self, address: u64) -> Option<u64> {
                [0x1000..0x3000, 0x4000..0x6000]
                    .iter()
                    .any(|stack| stack.contains(&address))
                    .then_some(0)
            }
        }
        static NONE: Modules = Modules::new();
        let trace = Trace::new(Cursor::new(Registers::new(), Pc::Exact(0x10), Two, &NONE));
        assert!(trace.joined(0x1008, 0x2ff8) && trace.joined(0x4000, 0x5ff8));
        assert!(!trace.joined(0x2008, 0x4010), "up, across the gap");
        assert!(!trace.joined(0x4010, 0x2008), "down");
        assert!(!trace.joined(0x1008, 0x1008 + LARGEST_STACK + 8));
    }
}
