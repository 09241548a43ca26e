//! What `create` made, kept beside the mount so that a successor makes it again: a journal, one JSON object a line.
//!
//! It belongs to one boot: a device of an earlier boot is not to come back, only what mdevctl defines does.

use crate::DaemonError;
use mdev_parent::{Instance, Owner};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// An instance as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub uuid: Uuid,
    pub parent: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub index: u32,
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    #[serde(default)]
    pub owner: Option<Owner>,
    #[serde(default)]
    pub driver_override: Option<String>,
}

impl From<&Instance> for Record {
    fn from(instance: &Instance) -> Self {
        Self {
            uuid: instance.uuid(),
            parent: instance.parent_name().to_owned(),
            type_name: instance.type_name().to_owned(),
            index: instance.index(),
            parameters: instance.parameters(),
            owner: instance.owner(),
            driver_override: instance.driver_override(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Boot(String),
    Instance(Record),
    Removed(Uuid),
}

/// Lines appended before the journal is compacted.
const COMPACT_AFTER: u32 = 4096;

/// The journal of one root.
pub(crate) struct Journal {
    path: PathBuf,
    boot: String,
    /// All that the journal is to hold, in the order of creation.
    records: Vec<Record>,
    /// `None` while the disk is behind, full or read-only: the next change writes everything anew.
    file: Option<File>,
    appended: u32,
}

impl Journal {
    /// Opens the journal in `dir` and says what it holds of this boot, in the order of creation.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Record>), DaemonError> {
        let path = dir.join("instances.jsonl");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::open_at(&path, boot.trim()).map_err(DaemonError::path("keep instances in", path))
    }

    fn open_at(path: &Path, boot: &str) -> io::Result<(Self, Vec<Record>)> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let records = replay(&text, boot);
        let mut journal =
            Self { path: path.to_owned(), boot: boot.to_owned(), records: records.clone(), file: None, appended: 0 };
        // A daemon that served yesterday serves today, whatever the disk says.
        journal.rewrite().unwrap_or_else(|error| journal.fall_behind(&error));
        Ok((journal, records))
    }

    /// An instance is there, or changed.
    pub fn keep(&mut self, record: Record) {
        match self.records.iter_mut().find(|known| known.uuid == record.uuid) {
            Some(known) => known.clone_from(&record),
            None => self.records.push(record.clone()),
        }
        self.append(&Line::Instance(record));
    }

    /// An instance is gone.
    pub fn forget(&mut self, uuid: Uuid) {
        self.records.retain(|known| known.uuid != uuid);
        self.append(&Line::Removed(uuid));
    }

    fn append(&mut self, line: &Line) {
        self.appended += 1;
        let written = match &mut self.file {
            Some(file) if self.appended < COMPACT_AFTER => write_line(file, line),
            // Instances that come and go for weeks must not fill the disk.
            _ => self.rewrite(),
        };
        written.unwrap_or_else(|error| self.fall_behind(&error));
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&fresh)?;
        let mut text = Line::Boot(self.boot.clone()).text()?;
        for record in &self.records {
            text.push_str(&Line::Instance(record.clone()).text()?);
        }
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, &self.path)?;
        (self.file, self.appended) = (Some(file), 0);
        Ok(())
    }

    fn fall_behind(&mut self, error: &io::Error) {
        tracing::error!(path = %self.path.display(), %error, "a restart may not know of this change, until one can be written");
        self.file = None;
    }
}

impl Line {
    fn text(&self) -> io::Result<String> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        Ok(text)
    }
}

fn write_line(file: &mut File, line: &Line) -> io::Result<()> {
    file.write_all(line.text()?.as_bytes())
}

/// A line that does not parse (the daemon died writing it) is passed over.
fn replay(text: &str, boot: &str) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut of_this_boot = false;
    for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Boot(id) => of_this_boot = id == boot,
            Line::Instance(record) => match records.iter_mut().find(|known| known.uuid == record.uuid) {
                Some(known) => *known = record,
                None => records.push(record),
            },
            Line::Removed(uuid) => records.retain(|known| known.uuid != uuid),
        }
    }
    if of_this_boot { records } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u128) -> Record {
        Record {
            uuid: Uuid::from_u128(number),
            parent: "p".into(),
            type_name: "p-t".into(),
            index: 0,
            parameters: BTreeMap::from([("mtu".into(), "1500".into())]),
            owner: Some(Owner { uid: 1, gid: 2 }),
            driver_override: None,
        }
    }

    fn reopen(path: &Path, boot: &str) -> Vec<Record> {
        Journal::open_at(path, boot).unwrap().1
    }

    #[test]
    fn what_was_created_and_not_removed_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, nothing) = Journal::open_at(&path, "boot").unwrap();
        assert_eq!(nothing, []);
        journal.keep(record(1));
        journal.keep(record(2));
        journal.forget(record(1).uuid);
        let changed = Record { driver_override: Some("d".into()), ..record(2) };
        journal.keep(changed.clone());
        assert_eq!(reopen(&path, "boot"), std::slice::from_ref(&changed));
        assert_eq!(reopen(&path, "boot"), [changed], "and again, from the compacted journal");
    }

    #[test]
    fn an_earlier_boot_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        Journal::open_at(&path, "boot 1").unwrap().0.keep(record(1));
        assert_eq!(reopen(&path, "boot 2"), []);
    }

    #[test]
    fn a_journal_of_instances_that_come_and_go_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, _) = Journal::open_at(&path, "boot").unwrap();
        journal.keep(record(1));
        for _ in 0..COMPACT_AFTER {
            journal.keep(record(2));
            journal.forget(record(2).uuid);
        }
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= 2 + usize::try_from(COMPACT_AFTER).unwrap());
        assert_eq!(reopen(&path, "boot"), [record(1)]);
    }

    #[test]
    fn f40_a_line_cut_short_loses_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, _) = Journal::open_at(&path, "boot").unwrap();
        journal.keep(record(1));
        journal.file.as_mut().unwrap().write_all(b"{\"instance\":{\"uuid\":\"83b8").unwrap();
        assert_eq!(reopen(&path, "boot"), [record(1)]);
    }

    /// `/dev/full` takes nothing, as a full disk does.
    fn fill(journal: &mut Journal) {
        journal.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
    }

    #[test]
    fn f42_what_a_full_disk_did_not_take_is_written_with_the_next_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, _) = Journal::open_at(&path, "boot").unwrap();
        journal.keep(record(1));
        fill(&mut journal);
        journal.keep(record(2));
        assert_eq!(reopen(&path, "boot"), [record(1)]);
        journal.forget(record(1).uuid);
        assert_eq!(reopen(&path, "boot"), [record(2)]);
    }
}
