//! Results on standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde::Serialize;
use uuid::Uuid;

use crate::conformance::{self, Verdict};
use crate::create::Created;
use crate::detail::{Detail, Value};
use crate::doctor::{Check, Report, Status};
use crate::stats::{Counters, Statistics};
use crate::text::cell;
use crate::tree::{Instance, MdevType, Parameter};

/// Stands for what does not exist or is not known.
const NONE: &str = "-";

/// Where results go.
pub(crate) struct Output {
    to: io::Stdout,
    pub(crate) json: bool,
}

impl Output {
    pub(crate) fn stdout(json: bool) -> Self {
        Self { to: io::stdout(), json }
    }

    pub(crate) fn types(&mut self, types: &[MdevType], parameters: bool) -> io::Result<()> {
        if self.json {
            return self.document(&types);
        }
        if parameters {
            return self.parameters(types);
        }
        let rows = types.iter().map(|t| {
            vec![
                cell(&t.parent),
                cell(&t.name),
                number(t.available_instances),
                text(t.device_api.as_deref()),
                text(t.dma_model.as_deref()),
                text(t.pretty_name.as_deref()),
                text(t.description.as_deref()),
            ]
        });
        self.table(&["PARENT", "TYPE", "AVAILABLE", "DEVICE_API", "DMA_MODEL", "NAME", "DESCRIPTION"], rows)
    }

    fn parameters(&mut self, types: &[MdevType]) -> io::Result<()> {
        let of = |of: &MdevType, parameter: &Parameter| {
            let Parameter { name, values, default, what } = parameter;
            vec![cell(&of.full_name()), cell(name), cell(values), text(default.as_deref()), cell(what)]
        };
        let rows = types.iter().flat_map(|t| t.parameters.iter().map(move |parameter| of(t, parameter)));
        self.table(&["TYPE", "PARAMETER", "VALUES", "DEFAULT", "WHAT"], rows)
    }

    pub(crate) fn instances(&mut self, instances: &[Instance]) -> io::Result<()> {
        if self.json {
            return self.document(&instances);
        }
        let rows = instances.iter().map(|i| {
            vec![
                i.uuid.to_string(),
                text(i.parent.as_deref()),
                text(i.type_name.as_deref()),
                text(i.state.as_deref()),
                text(i.driver.as_deref()),
                number(i.iommu_group),
                text(i.owner.as_deref()),
            ]
        });
        self.table(&["UUID", "PARENT", "TYPE", "STATE", "DRIVER", "IOMMU_GROUP", "OWNER"], rows)
    }

    pub(crate) fn created(&mut self, created: &Created) -> io::Result<()> {
        if self.json { self.document(created) } else { self.line(&created.uuid.to_string()) }
    }

    pub(crate) fn removed(&mut self, uuid: Uuid) -> io::Result<()> {
        if self.json { self.document(&serde_json::json!({ "uuid": uuid })) } else { Ok(()) }
    }

    pub(crate) fn detail(&mut self, detail: &Detail) -> io::Result<()> {
        if self.json {
            return self.document(detail);
        }
        let instance = &detail.instance;
        let path = |path: &Option<std::path::PathBuf>| text(path.as_deref().map(|p| p.to_string_lossy()).as_deref());
        let mut rows = vec![
            ("uuid", instance.uuid.to_string()),
            ("parent", text(instance.parent.as_deref())),
            ("type", text(instance.type_name.as_deref())),
            ("device_api", text(detail.device_api.as_deref())),
            ("state", text(instance.state.as_deref())),
            ("driver", text(instance.driver.as_deref())),
            ("driver_override", text(detail.driver_override.as_deref())),
            ("owner", text(instance.owner.as_deref())),
            ("iommu_group", number(instance.iommu_group)),
            ("vhost", path(&detail.devices.vhost)),
            ("vhost_vdpa", path(&detail.devices.vhost_vdpa)),
            ("vfio_group", path(&detail.devices.vfio_group)),
            ("vfio_dev", text(detail.devices.vfio_dev.as_deref())),
        ];
        if let Some(words) = &detail.last_error {
            rows.push(("last_error", cell(words)));
        }
        for (name, value) in rows {
            self.line(&format!("{name}: {value}"))?;
        }
        if !detail.attributes.is_empty() {
            self.line("attributes:")?;
        }
        for (name, value) in &detail.attributes {
            let value = match value {
                Value::Value(value) => cell(value),
                Value::Error(words) => format!("({words})"),
            };
            self.line(format!("  {}: {value}", cell(name)).trim_end())?;
        }
        Ok(())
    }

    /// The queues of one instance, or a line for each of several.
    pub(crate) fn statistics(&mut self, instances: &[Statistics], one: bool) -> io::Result<()> {
        if self.json {
            return self.document(&instances);
        }
        if one {
            return instances.iter().try_for_each(|instance| self.queues(instance));
        }
        let names = ["rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped"];
        let rows = instances.iter().map(|instance| {
            let counts = names.map(|name| number(instance.statistics.get(name).copied()));
            [instance.uuid.to_string(), text(instance.parent.as_deref()), text(instance.type_name.as_deref())]
                .into_iter()
                .chain(counts)
                .collect()
        });
        let header =
            ["UUID", "PARENT", "TYPE", "RX_PACKETS", "RX_BYTES", "RX_DROPPED", "TX_PACKETS", "TX_BYTES", "TX_DROPPED"];
        self.table(&header, rows)
    }

    fn queues(&mut self, instance: &Statistics) -> io::Result<()> {
        let queues = instance.queues.iter().map(|queue| {
            let name = format!("{} {}", queue.direction, queue.queue);
            counts(name, "drops", &queue.counters)
        });
        let sums = ["rx", "tx"].map(|direction| {
            let own = |(name, count): (&String, &u64)| {
                Some((name.strip_prefix(direction)?.strip_prefix('_')?.to_owned(), *count))
            };
            let own: Counters = instance.statistics.iter().filter_map(own).collect();
            counts(direction.to_owned(), "dropped", &own)
        });
        let rows: Vec<_> = queues.chain(sums).collect();
        self.table(&["QUEUE", "PACKETS", "BYTES", "DROPPED", "WHY"], rows.into_iter())
    }

    pub(crate) fn report(&mut self, report: &Report) -> io::Result<()> {
        if self.json {
            return self.document(report);
        }
        let rows = report.checks.iter().map(|check| vec![status(check), check.check.to_owned(), finding(check)]);
        self.table(&["STATUS", "CHECK", "FOUND"], rows)?;
        let lacking: Vec<_> = report.checks.iter().filter(|check| check.prevents()).map(|check| check.check).collect();
        self.line("")?;
        if lacking.is_empty() {
            self.line("umdevd can work on this machine")
        } else {
            self.line(&format!("umdevd cannot work on this machine; it needs: {}", lacking.join(", ")))
        }
    }

    pub(crate) fn conformance(&mut self, report: &conformance::Report) -> io::Result<()> {
        if self.json {
            return self.document(report);
        }
        let rows = report.rules.iter().map(|item| {
            let seen = item.seen.as_deref().or(item.reason.as_deref());
            let seen = match item.verdict {
                Verdict::Fail => format!("{}; expected: {} ({})", text(seen), item.expected, item.reference),
                Verdict::Pass | Verdict::Skip => text(seen),
            };
            vec![item.verdict.as_str().to_owned(), item.rule.to_owned(), seen]
        });
        self.table(&["VERDICT", "RULE", "SEEN"], rows)?;
        let (passed, failed, skipped) = (report.passed, report.failed, report.skipped);
        self.line(&format!("\n{passed} passed, {failed} failed, {skipped} skipped"))
    }

    /// One line, at once: its reader may be a pipe.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.to, "{line}")?;
        self.to.flush()
    }

    fn document<T: Serialize + ?Sized>(&mut self, document: &T) -> io::Result<()> {
        self.line(&serde_json::to_string_pretty(document)?)
    }

    fn table(&mut self, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.to_vec()).add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }
}

fn text(value: Option<&str>) -> String {
    value.map_or_else(|| NONE.to_owned(), cell)
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// A row: packets, bytes, drops by the name given, and of the others those that are not zero.
fn counts(queue: String, drops: &str, counters: &Counters) -> Vec<String> {
    let known = ["packets", "bytes", drops];
    let [packets, bytes, drops] = known.map(|name| number(counters.get(name).copied()));
    let why = counters.iter().filter(|(name, count)| !known.contains(&name.as_str()) && **count > 0);
    let why: Vec<_> = why.map(|(name, count)| format!("{} {count}", cell(name))).collect();
    vec![queue, packets, bytes, drops, text(Some(why.join(", ").as_str()).filter(|why| !why.is_empty()))]
}

fn status(check: &Check) -> String {
    match check.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Missing if check.required => "missing (required)",
        Status::Missing => "missing",
    }
    .to_owned()
}

fn finding(check: &Check) -> String {
    match &check.remedy {
        Some(remedy) => format!("{}; {}", cell(&check.found), cell(remedy)),
        None => cell(&check.found),
    }
}
