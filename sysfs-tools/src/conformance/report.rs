//! What was found.

use serde::{Deserialize, Serialize};

/// How a rule went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The device keeps it.
    Pass,
    /// It does not.
    Fail,
    /// It could not be tried.
    Skip,
}

impl Verdict {
    /// The word a person reads.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// A rule and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// `family.rule`; the name is stable.
    pub rule: &'static str,
    /// Where it is written.
    pub reference: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What the rule asks for.
    pub expected: &'static str,
    /// What was seen; `null` where nothing was tried.
    pub seen: Option<String>,
    /// Why it was not tried; `null` where it was.
    pub reason: Option<String>,
}

/// All rules, always the same ones in the same order.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of this tool.
    pub version: &'static str,
    /// The file that was driven.
    pub path: String,
    /// Whether no rule failed.
    pub conforms: bool,
    /// How many rules passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many could not be tried.
    pub skipped: usize,
    /// One entry a rule.
    pub rules: Vec<Item>,
}

impl Report {
    pub(super) fn new(path: String, rules: Vec<Item>) -> Self {
        let count = |verdict| rules.iter().filter(|item| item.verdict == verdict).count();
        let (passed, failed, skipped) = (count(Verdict::Pass), count(Verdict::Fail), count(Verdict::Skip));
        Self { version: env!("CARGO_PKG_VERSION"), path, conforms: failed == 0, passed, failed, skipped, rules }
    }
}

/// Why a rule did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// What was seen instead.
    Failed(String),
    /// Why it could not be tried.
    Skipped(String),
}

/// What was seen of a rule that is kept, or why not.
pub type Outcome = Result<String, Ended>;

/// Ends a rule that is not kept.
pub fn fail<T>(seen: impl Into<String>) -> Result<T, Ended> {
    Err(Ended::Failed(seen.into()))
}

/// Ends a rule that cannot be tried.
pub fn skip<T>(reason: impl Into<String>) -> Result<T, Ended> {
    Err(Ended::Skipped(reason.into()))
}
