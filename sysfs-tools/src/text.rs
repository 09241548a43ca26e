//! Text from the tree on its way to a terminal.

use std::fmt::Write;

/// The text with everything escaped that would control a terminal or reorder what is seen: control characters (C0, DEL, C1), line and paragraph
/// separators, and the marks of bidirectional text.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => safe.push_str("\\t"),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            c if u32::from(c) < 0x80 && c.is_control() => {
                // A String takes every write.
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() || reorders(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// The text as one cell of a table: lines joined by commas (the kernel's type descriptions have several), the rest [`printable`].
#[must_use]
pub fn cell(text: &str) -> String {
    printable(&text.trim().lines().map(str::trim).collect::<Vec<_>>().join(", "))
}

fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::{cell, printable};

    #[test]
    fn terminal_controls_are_escaped() {
        assert_eq!(printable("a\x1b[2Jb\x07\x7f\u{9b}31m"), "a\\x1b[2Jb\\x07\\x7f\\u{9b}31m");
    }

    #[test]
    fn marks_that_reorder_text_are_escaped() {
        assert_eq!(printable("\u{202e}resu"), "\\u{202e}resu");
    }

    #[test]
    fn other_scripts_are_kept() {
        assert_eq!(printable("réseau 网络"), "réseau 网络");
    }

    #[test]
    fn lines_of_a_description_become_one_cell() {
        assert_eq!(cell("low: 1\nhigh: 2\n"), "low: 1, high: 2");
    }
}
