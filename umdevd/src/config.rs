//! What the daemon is told: a TOML file, and `--parent` words.
//!
//! ```toml
//! remove_patience = 5          # seconds a holder has to let go of an instance that is to be removed
//! vendor_deadline = 5          # seconds one call of vendor code may take
//!
//! [[parent]]
//! kind = "loopback"
//! name = "loopback0"           # default: the kind and a number
//! capacity = 64                # whatever the kind understands
//! ```

use crate::DaemonError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A parent to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentSpec {
    /// Which of the stock parents.
    pub kind: String,
    /// Its name on the bus.
    pub name: String,
    /// What the kind understands.
    pub options: BTreeMap<String, String>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    remove_patience: Option<f64>,
    #[serde(default)]
    vendor_deadline: Option<f64>,
    #[serde(default, rename = "parent")]
    parents: Vec<BTreeMap<String, toml::Value>>,
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, DaemonError> {
        let text = std::fs::read_to_string(path).map_err(DaemonError::path("read", path))?;
        toml::from_str(&text).map_err(|error| DaemonError::Config(format!("{}: {error}", path.display())))
    }

    /// How long a holder has to let go.
    pub fn remove_patience(&self) -> Result<Option<Duration>, DaemonError> {
        seconds("remove_patience", self.remove_patience)
    }

    /// How long vendor code may take.
    pub fn vendor_deadline(&self) -> Result<Option<Duration>, DaemonError> {
        seconds("vendor_deadline", self.vendor_deadline)
    }

    /// The parents, in order.
    pub fn parents(&self) -> Result<Vec<ParentSpec>, DaemonError> {
        self.parents.iter().enumerate().map(|(number, table)| from_table(number, table)).collect()
    }
}

fn seconds(key: &str, value: Option<f64>) -> Result<Option<Duration>, DaemonError> {
    let duration = value.map(Duration::try_from_secs_f64).transpose();
    duration.map_err(|error| DaemonError::Config(format!("{key}: {error}")))
}

fn from_table(number: usize, table: &BTreeMap<String, toml::Value>) -> Result<ParentSpec, DaemonError> {
    let word = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut options: BTreeMap<String, String> = table.iter().map(|(key, value)| (key.clone(), word(value))).collect();
    let kind = options.remove("kind").ok_or_else(|| DaemonError::Config(format!("parent {number} has no kind")))?;
    let name = options.remove("name").unwrap_or_else(|| format!("{kind}{number}"));
    ParentSpec { kind, name, options }.checked()
}

impl ParentSpec {
    /// Parses `KIND[:NAME][,key=value…]`; without a name the kind and a 0.
    pub fn parse(text: &str) -> Result<Self, DaemonError> {
        let mut words = text.split(',');
        let head = words.next().unwrap_or_default();
        let (kind, name) = head.split_once(':').map_or((head, None), |(kind, name)| (kind, Some(name)));
        let mut options = BTreeMap::new();
        for word in words {
            let (key, value) = word
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| DaemonError::Config(format!("{text}: {word:?} is not key=value")))?;
            options.insert(key.to_owned(), value.to_owned());
        }
        let name = name.map_or_else(|| format!("{kind}0"), str::to_owned);
        Self { kind: kind.to_owned(), name, options }.checked()
    }

    /// A name is a directory's.
    fn checked(self) -> Result<Self, DaemonError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let Self { kind, name, .. } = &self;
        if kind.is_empty() || name.is_empty() || name.starts_with('.') || !name.chars().all(fine) {
            return Err(DaemonError::Config(format!("{kind}:{name} is no kind and name of a parent")));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, name: &str, options: &[(&str, &str)]) -> ParentSpec {
        let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        ParentSpec { kind: kind.to_owned(), name: name.to_owned(), options }
    }

    #[test]
    fn a_parent_word_is_kind_name_and_options() {
        assert_eq!(ParentSpec::parse("tap").unwrap(), spec("tap", "tap0", &[]));
        let full = ParentSpec::parse("loopback:lo1,capacity=4,x=").unwrap();
        assert_eq!(full, spec("loopback", "lo1", &[("capacity", "4"), ("x", "")]));
    }

    #[test]
    fn a_name_that_is_no_file_name_is_refused() {
        for bad in ["", ":x", "tap:", "tap:a/b", "tap:..", "tap,capacity", "tap,=1"] {
            assert!(ParentSpec::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_lists_parents_and_patience() {
        let text = "remove_patience = 0.5\n[[parent]]\nkind = \"loopback\"\ncapacity = 4\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.remove_patience().unwrap(), Some(Duration::from_millis(500)));
        assert_eq!(config.parents().unwrap(), [spec("loopback", "loopback0", &[("capacity", "4")])]);
    }

    #[test]
    fn an_unknown_key_and_a_negative_time_are_refused() {
        assert!(toml::from_str::<Config>("patience = 1\n").is_err());
        let config: Config = toml::from_str("vendor_deadline = -1.0\n").unwrap();
        assert!(config.vendor_deadline().is_err());
    }
}
