//! A device that is used by its own file, not by that of its group.

use crate::Group;
use std::sync::Arc;

/// A group taken for a file of its device, see [`Group::bind`]. Dropping it gives the group back, without its memory.
#[must_use = "the group is free when this is dropped"]
pub struct Bound {
    group: Arc<Group>,
    id: u64,
}

impl Bound {
    pub(crate) fn new(group: Arc<Group>, id: u64) -> Self {
        Self { group, id }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.group.close(self.id);
    }
}
