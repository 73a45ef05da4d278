//! Reads what the system says is mapped: `/proc/self/maps` (proc_pid_maps(5)).
//!
//! ```text
//!   40000000-40001000 r-xp 00000000 00:00 0   [name]
//!   start    end      ▲▲▲ read, write, execute
//! ```

use core::ffi::CStr;

use super::syscall::{self, Errno};
use crate::machine::Mapping;

const FILE: &CStr = c"/proc/self/maps";

/// Bytes of a line that say all that is looked at: two addresses of 16 digits, and the rights.
const LINE: usize = 40;

/// Shows every line.
pub(super) fn visit(visit: &mut dyn FnMut(Mapping)) -> Result<(), (&'static str, Errno)> {
    let file = syscall::open(FILE).map_err(|errno| ("open", errno))?;
    let mut buffer = [0; 1024];
    let (mut line, mut length) = ([0; LINE], 0);
    let result = loop {
        match syscall::read(file, &mut buffer) {
            Ok(0) => break Ok(()),
            Err(errno) => break Err(("read", errno)),
            Ok(count) => {
                for &byte in &buffer[..count] {
                    if byte == b'\n' {
                        mapping(&line[..length]).into_iter().for_each(&mut *visit);
                        length = 0;
                    } else if length < LINE {
                        line[length] = byte;
                        length += 1;
                    }
                }
            }
        }
    };
    syscall::close(file);
    result
}

fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut words = core::str::from_utf8(line).ok()?.split(' ');
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let rights = words.next()?.as_bytes();
    Some(Mapping {
        start,
        size: end - start,
        memory: None,
        writable: rights.contains(&b'w'),
        executable: rights.contains(&b'x'),
    })
}
