//! One attribute file: reading its value, writing it and learning why a write was refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::errno_of;

/// More than this is not an attribute; sysfs stops at a page.
const MAX_VALUE: u64 = 64 * 1024;

/// The value without surrounding white space. Bytes that are no UTF-8 are replaced.
///
/// # Errors
/// What `open` or `read` answers.
pub fn read(path: &Path) -> io::Result<String> {
    // O_NONBLOCK: a tree that hides a pipe among its attributes must not hang its reader.
    value_of(&OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?)
}

/// [`read`], where an attribute that is empty or does not exist is none.
#[must_use]
pub fn read_optional(path: &Path) -> Option<String> {
    read(path).ok().filter(|value| !value.is_empty())
}

fn value_of(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_VALUE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// A write that the tree did not take.
#[derive(Debug)]
pub struct Refusal {
    /// What `open` or `write` answered.
    pub errno: Errno,
    /// The words found on the descriptor that wrote.
    pub reason: Option<String>,
    /// Whether the write was made at all: the file could be opened.
    pub written: bool,
}

impl Refusal {
    /// The words found, or else those of the first of these `last_error` files that has some. A write that was never made left no words there: they would
    /// be about another's.
    #[must_use]
    pub fn reason_or(self, last_errors: &[PathBuf]) -> Option<String> {
        self.reason.or_else(|| last_errors.iter().filter(|_| self.written).find_map(|path| read_optional(path)))
    }
}

/// Writes one line in one `write`, as `echo` does.
///
/// # Errors
/// The errno, and the reason that the same descriptor gives when it is read.
pub fn write(path: &Path, line: &str) -> Result<(), Refusal> {
    let mut file =
        open_for_write(path).map_err(|error| Refusal { errno: errno_of(&error), reason: None, written: false })?;
    let line = format!("{line}\n");
    match file.write(line.as_bytes()) {
        Ok(written) if written == line.len() => Ok(()),
        // Half a line was taken as a whole one: nothing an attribute may do.
        Ok(written) => Err(Refusal {
            errno: Errno::EIO,
            reason: Some(format!("only {written} of {} bytes were taken", line.len())),
            written: true,
        }),
        Err(error) => Err(Refusal {
            errno: errno_of(&error),
            reason: value_of(&file).ok().filter(|words| !words.is_empty()),
            written: true,
        }),
    }
}

/// Read-write, so that the reason of a refusal can be read; write-only where the mode of the file allows no more.
fn open_for_write(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => OpenOptions::new().write(true).open(path),
        opened => opened,
    }
}
