//! Parameters of `create` as data: what a type shows of them is what it checks.

use crate::Refusal;
use nix::errno::Errno;
use std::fmt;
use std::ops::RangeInclusive;

/// A `key=value` parameter that a type takes.
///
/// Its text is one line for a person and for programs: name, values and default, none of which has white space in it,
/// and then what it is about. A default that every instance has its own of is `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// The key.
    pub name: &'static str,
    /// The values it can have.
    pub values: Values,
    /// The value when it is not given.
    pub default: Option<String>,
    /// What it is about.
    pub what: &'static str,
}

/// The values of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// A decimal number of this range.
    Number(RangeInclusive<u16>),
    /// A power of two of this range.
    PowerOfTwo(RangeInclusive<u16>),
    /// What has a shape of its own, as a person is told of it.
    Shape(&'static str),
}

impl ParameterSpec {
    /// Parses a number; EINVAL, with the range in the words, for any that is not in it.
    pub fn number(&self, written: &str) -> Result<u16, Refusal> {
        let number = written.parse().ok().filter(|number| match &self.values {
            Values::Number(range) => range.contains(number),
            Values::PowerOfTwo(range) => range.contains(number) && number.is_power_of_two(),
            Values::Shape(_) => true,
        });
        number.ok_or_else(|| {
            let kind = if matches!(self.values, Values::PowerOfTwo(_)) { "power of two" } else { "number" };
            self.refuse(written, &format!("not a {kind} in {}", self.values.range()))
        })
    }

    /// EINVAL, with key and value in the words.
    pub fn refuse(&self, written: &str, why: &str) -> Refusal {
        Refusal::new(Errno::EINVAL, format!("{}={written}: {why}", self.name))
    }
}

impl Values {
    fn range(&self) -> String {
        match self {
            Self::Number(range) | Self::PowerOfTwo(range) => format!("{}..{}", range.start(), range.end()),
            Self::Shape(shape) => (*shape).to_owned(),
        }
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOfTwo(_) => write!(f, "{}(2^n)", self.range()),
            _ => f.write_str(&self.range()),
        }
    }
}

impl fmt::Display for ParameterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = self.default.as_deref().unwrap_or("-");
        write!(f, "{} {} {default} {}", self.name, self.values, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> ParameterSpec {
        let values = Values::PowerOfTwo(2..=1024);
        ParameterSpec { name: "size", values, default: Some("256".to_owned()), what: "entries of the ring" }
    }

    #[test]
    fn what_is_shown_is_one_line_of_name_values_default_and_words() {
        assert_eq!(size().to_string(), "size 2..1024(2^n) 256 entries of the ring");
        let mtu = ParameterSpec { values: Values::Number(68..=65535), default: None, ..size() };
        assert_eq!(mtu.to_string(), "size 68..65535 - entries of the ring");
    }

    #[test]
    fn what_is_shown_is_what_is_checked() {
        assert_eq!(size().number("64"), Ok(64));
        for wrong in ["1", "2048", "100", "65536", "-2", "", "x", "6 4"] {
            let refusal = size().number(wrong).unwrap_err();
            assert_eq!(refusal.errno(), Errno::EINVAL);
            assert_eq!(refusal.reason(), format!("size={wrong}: not a power of two in 2..1024"));
        }
    }
}
