//! Crates that others wrote, at work: what they come to must not depend on where they run.
//!
//! ```text
//!   cdylib for wasm32 ─► the kernel calls `report` ─► text ┐ the same,
//!   a program of the host ─────────────────────────► text ┘ byte for byte
//! ```

use std::fmt::Write as _;

use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib;
use regex::Regex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How many records the text has that is worked on.
const RECORDS: u64 = 2_000;

/// Where `report`'s text lies, and its bytes.
#[repr(C)]
pub struct Text {
    start: *const u8,
    size: usize,
}

/// The report, for whoever runs this as WebAssembly; it is never freed.
#[unsafe(no_mangle)]
pub extern "C" fn report() -> *const Text {
    let text: &'static str = summary().leak();
    Box::leak(Box::new(Text { start: text.as_ptr(), size: text.len() }))
}

/// A text is made (JSON), searched (regular expressions), compressed (zlib's format), and each result
/// is hashed (SHA-256).
pub fn summary() -> String {
    let mut report = String::new();
    let text = document().to_string();
    line(&mut report, "serialized", text.as_bytes());
    match serde_json::from_str::<Value>(&text) {
        Ok(read) => line(&mut report, "parsed, pretty", format!("{read:#}").as_bytes()),
        Err(error) => line(&mut report, "not parsed", error.to_string().as_bytes()),
    }
    for pattern in [r"\b\w*(?:1|7)\b", r"(?i)TASK-(\d+)\s+on\s+cpu\s*[02468]", r"[^\x00-\x7f]+"] {
        let Ok(regex) = Regex::new(pattern) else { continue };
        let found: Vec<_> = regex.find_iter(&text).map(|found| found.as_str()).collect();
        line(&mut report, &format!("{pattern}, {} times", found.len()), found.concat().as_bytes());
    }
    for level in [1, 6, 9] {
        let packed = compress_to_vec_zlib(text.as_bytes(), level);
        let same = decompress_to_vec_zlib(&packed).is_ok_and(|back| back == text.as_bytes());
        line(&mut report, &format!("level {level}, the same again: {same}"), &packed);
    }
    report
}

/// A name, and the size and the hash of what has it.
fn line(report: &mut String, name: &str, bytes: &[u8]) {
    let hash = Sha256::digest(bytes);
    // Text takes whatever is written to it.
    let _ = writeln!(report, "{name}: {} bytes, {hash:x}", bytes.len());
}

/// Numbers, floating-point ones among them, text that is not ASCII, nesting.
fn document() -> Value {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let records = (0..RECORDS).map(|number| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        json!({
            "name": format!("task-{number} on CPU {}", state % 4),
            "ratio": state as f64 / number as f64,
            "signed": state as i64,
            "tags": ["größer", "≤", null, number % 3 == 0],
        })
    });
    Value::Array(records.collect())
}
