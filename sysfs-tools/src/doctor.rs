//! `umdev doctor`: what this machine lacks for umdevd, and the way out. What can be tried without harm is tried; versions are not trusted.

mod daemon;
mod devices;
mod exec;
mod identity;
mod kernel;
mod limits;
mod sys;

use std::path::Path;

use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing to do.
    Ok,
    /// umdevd works, but slower or for fewer clients.
    Warn,
    /// Not there.
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; the name is stable.
    pub check: &'static str,
    /// How it went.
    pub status: Status,
    /// Whether umdevd cannot work without it.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// The way out, where there is one.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, required: false, found: found.into(), remedy: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, required: false, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn missing(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Missing, required: false, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// Marks what umdevd cannot work without.
    fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Whether umdevd cannot work because of this.
    #[must_use]
    pub fn prevents(&self) -> bool {
        self.required && self.status == Status::Missing
    }
}

/// All checks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of this tool.
    pub version: &'static str,
    /// The root that was looked at.
    pub root: String,
    /// Whether umdevd can work on this machine.
    pub able: bool,
    /// One entry a check, always the same ones in the same order.
    pub checks: Vec<Check>,
}

/// Looks at everything.
#[must_use]
pub fn examine(root: &Path) -> Report {
    let mut checks = Vec::new();
    checks.extend(identity::checks());
    checks.extend(kernel::checks());
    checks.extend(devices::checks());
    checks.extend(limits::checks());
    checks.extend(exec::checks());
    checks.extend(daemon::checks(root));
    Report {
        version: env!("CARGO_PKG_VERSION"),
        root: root.to_string_lossy().into_owned(),
        able: !checks.iter().any(Check::prevents),
        checks,
    }
}
