//! Tells Rust code from what only looks like it: comments, strings, characters.
//!
//! ```text
//! let s = "asm!"; // asm!        ──►  let s = "    ";
//! ```
//!
//! Every other byte stays where it is, so that lines keep their numbers.
#![forbid(unsafe_code)]

/// The code of `source`; the insides of strings, and comments, are blanks.
pub fn code(source: &str) -> String {
    let mut lexer = Lexer { rest: source, out: String::with_capacity(source.len()) };
    while !lexer.rest.is_empty() {
        lexer.token();
    }
    lexer.out
}

struct Lexer<'s> {
    rest: &'s str,
    out: String,
}

impl Lexer<'_> {
    fn token(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.blank(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.blank(block_comment(rest));
        } else if rest.starts_with('"') {
            self.quoted(escaped(rest, '"'), 1);
        } else if rest.starts_with('\'') {
            self.quote();
        } else {
            let word =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            self.keep(word.max(rest.chars().next().map_or(0, char::len_utf8)));
            if matches!(&rest[..word], "r" | "br" | "cr") {
                self.raw();
            }
        }
    }

    /// A character, or a lifetime.
    fn quote(&mut self) {
        let mut characters = self.rest.chars().skip(1);
        match (characters.next(), characters.next()) {
            (Some('\\'), _) => self.quoted(escaped(self.rest, '\''), 1),
            (Some(c), Some('\'')) => self.quoted(c.len_utf8() + 2, 1),
            _ => self.keep(1),
        }
    }

    /// What follows an `r`: a raw string, if it begins like one.
    fn raw(&mut self) {
        let hashes = self.rest.len() - self.rest.trim_start_matches('#').len();
        if self.rest[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = &self.rest[hashes + 1..];
            let length = inside.find(&close).map_or(self.rest.len(), |at| at + 2 * hashes + 2);
            self.quoted(length, hashes + 1);
        }
    }

    /// Keeps so many bytes at both ends of a literal of `length` bytes.
    fn quoted(&mut self, length: usize, ends: usize) {
        if length < 2 * ends {
            return self.keep(length); // unterminated
        }
        self.keep(ends);
        self.blank(length - 2 * ends);
        self.keep(ends);
    }

    fn keep(&mut self, length: usize) {
        let (kept, rest) = self.rest.split_at(length);
        self.out.push_str(kept);
        self.rest = rest;
    }

    fn blank(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

/// The length of a literal between two `quote`s, with backslashes in it.
fn escaped(text: &str, quote: char) -> usize {
    let mut backslash = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if backslash => backslash = false,
            '\\' => backslash = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a block comment, with others in it.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanked(source: &str, hidden: &str) {
        let code = code(source);
        assert!(!code.contains(hidden), "{source:?} became {code:?}");
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn what_is_not_code_goes() {
        blanked("a(); // asm!\nb();", "asm!");
        blanked("//! asm!", "asm!");
        blanked("/* x /* y */ asm!\n */ b();", "asm!");
        blanked(r#"let s = "a\"asm!";"#, "asm!");
        blanked("let s = r#\"a\"asm!\"#;", "asm!");
        blanked("let s = br\"asm!\\\";", "asm!");
        blanked("let s = c\"asm!\";", "asm!");
    }

    #[test]
    fn code_stays() {
        let kept = |source: &str| assert_eq!(code(source), source);
        kept("asm!(\"\");");
        kept("fn f<'a>(x: &'a str) -> &'static str { x }");
        kept("'outer: loop { break 'outer; }");
        kept("let r = r#type;");
        assert_eq!(code("let c = '\"'; asm!()"), "let c = ' '; asm!()");
        assert_eq!(code(r"let c = '\''; asm!()"), "let c = '  '; asm!()");
        assert_eq!(code("let c = 'ä'; // é\nasm!()"), "let c = ' ';     \nasm!()");
    }
}
