//! Names in errors, which must be told also when there is no memory for them.
//!
//! ```text
//!   "name" ──► memory? ── yes ──► a copy of its own
//!                 └────── no ───► "(no memory for the name)"
//! ```
//!
//! Promise: making and cloning one never fails and never ends the program.
#![forbid(unsafe_code)]

use alloc::boxed::Box;
use alloc::string::String;
use core::cmp::Ordering;
use core::fmt;
use core::ops::Deref;

/// A name that outlives the file it was read from.
///
/// If there is no memory for it, it reads `(no memory for the name)`.
pub struct Text(Option<Box<str>>);

impl Text {
    /// What stands for a name that there is no memory for.
    const PLACEHOLDER: &'static str = "(no memory for the name)";

    /// These pieces, one after the other.
    pub(crate) fn concat(pieces: &[&str]) -> Self {
        let mut copy = String::new();
        // Exactly as much as is needed, so that making a box of it does not allocate again.
        let room = copy.try_reserve_exact(pieces.iter().map(|piece| piece.len()).sum());
        Self(room.is_ok().then(|| {
            pieces.iter().for_each(|piece| copy.push_str(piece));
            copy.into_boxed_str()
        }))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::concat(&[text])
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::PLACEHOLDER)
    }
}

impl Clone for Text {
    fn clone(&self) -> Self {
        self.0.as_deref().map_or(Self(None), Self::from)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_like_what_it_was_made_of() {
        for name in ["", "memcpy", "größer"] {
            let text = Text::from(name);
            assert_eq!(text, name);
            assert_eq!((text.to_string(), text.clone()), (name.to_string(), text));
        }
        assert_eq!(format!("{:?}", Text::from("a\n")), r#""a\n""#);
        assert_ne!(Text::from("a"), Text::from("b"));
    }

    #[test]
    fn without_memory_it_says_so() {
        let text = Text(None);
        assert_eq!(text, "(no memory for the name)");
        assert_eq!(text.clone(), text);
        assert_eq!(format!("{text} {text:?}"), format!("{0} \"{0}\"", Text::PLACEHOLDER));
    }
}
