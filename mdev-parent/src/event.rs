//! The event stream of the bus.

use crate::{Instance, State};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A parent registered.
    ParentAdd,
    /// A parent left.
    ParentRemove,
    /// An instance was created.
    Create,
    /// An instance was removed.
    Remove,
    /// The holder of an instance is asked to let go of it.
    RemoveRequest,
    /// A driver was bound to an instance.
    Bind,
    /// A driver was unbound from an instance.
    Unbind,
    /// A client opened the instance.
    Open,
    /// The client closed it.
    Close,
    /// The state of an instance changed.
    State,
}

/// One event. Fields that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "event")]
    pub kind: EventKind,
    /// When: seconds since the epoch.
    pub time: f64,
    /// The parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The type's directory name.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// The instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The new state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

impl Event {
    pub(crate) fn of_parent(kind: EventKind, parent: &str) -> Self {
        Self {
            kind,
            time: now(),
            parent: Some(parent.to_owned()),
            type_name: None,
            uuid: None,
            driver: None,
            state: None,
        }
    }

    pub(crate) fn of_instance(kind: EventKind, instance: &Instance) -> Self {
        Self {
            type_name: Some(instance.type_name().to_owned()),
            uuid: Some(instance.uuid()),
            ..Self::of_parent(kind, instance.parent_name())
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
