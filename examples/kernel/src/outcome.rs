//! How a task ended.
//!
//! ```text
//!   returned ─► Completed   panic ─► Panicked   CPU fault ─► Faulted   kill ─► Killed
//! ```
#![forbid(unsafe_code)]

use core::any::Any;

use alloc::boxed::Box;
use unspool::panic::{Unwound, resume_unwind};

use crate::fault::FaultInfo;

/// How a task ended, as [`JoinHandle::join`](crate::task::JoinHandle::join) says.
#[derive(Debug)]
pub enum Outcome<T> {
    /// Its body returned this.
    Completed(T),
    /// A panic left its body, with this payload.
    Panicked(Box<dyn Any + Send>),
    /// It was unwound for an instruction that could not be executed; also if its body caught that
    /// and passed the payload on.
    Faulted(FaultInfo),
    /// It was unwound because [`Task::kill`](crate::task::Task::kill) was called for it.
    Killed,
}

impl<T> Outcome<T> {
    pub(crate) fn new(result: Result<T, Unwound>) -> Self {
        match result {
            Ok(value) => Self::Completed(value),
            Err(Unwound::Killed) => Self::Killed,
            Err(Unwound::Panicked(payload)) => match payload.downcast() {
                Ok(info) => Self::Faulted(*info),
                Err(payload) => Self::Panicked(payload),
            },
        }
    }

    /// Whether the body returned.
    pub const fn is_completed(&self) -> bool {
        matches!(self, Self::Completed(_))
    }

    /// Whether the task was killed.
    pub const fn is_killed(&self) -> bool {
        matches!(self, Self::Killed)
    }

    /// What the body returned, if it did.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Completed(value) => Some(value),
            _ => None,
        }
    }

    /// The payload of the panic, if one ended the task.
    pub fn panicked(self) -> Option<Box<dyn Any + Send>> {
        match self {
            Self::Panicked(payload) => Some(payload),
            _ => None,
        }
    }

    /// The fault, if one ended the task.
    pub fn faulted(self) -> Option<FaultInfo> {
        match self {
            Self::Faulted(info) => Some(info),
            _ => None,
        }
    }

    /// What the body returned, or else goes on here with what ended it, silently: with the payload of
    /// its panic, or with its [`FaultInfo`] as one.
    ///
    /// # Panics
    ///
    /// If the task was killed, or unwound.
    #[track_caller]
    pub fn or_resume(self) -> T {
        match self {
            Self::Panicked(payload) => resume_unwind(payload),
            Self::Faulted(info) => resume_unwind(Box::new(info)),
            other => other.unwrap(),
        }
    }

    /// What the body returned.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn unwrap(self) -> T {
        match self {
            Self::Completed(value) => value,
            Self::Panicked(_) => panic!("the task panicked"),
            Self::Faulted(info) => panic!("the task faulted: {info}"),
            Self::Killed => panic!("the task was killed"),
        }
    }
}
