//! Attributes made of closures, and the reason of the last refusal kept for shells.

use devnode::{Attribute, Caller};
use parking_lot::Mutex;
use std::sync::Arc;
use virtio_mdev_api::Refusal;

type Show = Box<dyn Fn() -> Result<String, Refusal> + Send + Sync>;
type Store = Box<dyn Fn(&[u8]) -> Result<(), Refusal> + Send + Sync>;

/// Permissions of an attribute that is read.
pub(super) const READ: u16 = 0o444;
/// Permissions of an attribute that is written.
pub(super) const WRITE: u16 = 0o200;
/// Permissions of an attribute that is both.
pub(super) const READ_WRITE: u16 = 0o644;

/// An attribute whose text ends in a newline that its closures do not see.
pub(super) struct Attr {
    show: Option<Show>,
    store: Option<Store>,
    refusals: Vec<Arc<LastError>>,
}

impl Attr {
    pub fn show(show: impl Fn() -> Result<String, Refusal> + Send + Sync + 'static) -> Self {
        Self { show: Some(Box::new(show)), store: None, refusals: Vec::new() }
    }

    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::show(move || Ok(text.clone()))
    }

    pub fn store(store: impl Fn(&[u8]) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        Self { show: None, store: Some(Box::new(store)), refusals: Vec::new() }
    }

    pub fn and_store(mut self, store: impl Fn(&[u8]) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Refused writes leave their reason in `last`.
    pub fn refusals_to(mut self, last: &Arc<LastError>) -> Self {
        self.refusals.push(Arc::clone(last));
        self
    }
}

impl Attribute for Attr {
    fn show(&self) -> Result<String, Refusal> {
        let Some(show) = &self.show else { return Err(Refusal::new(nix::errno::Errno::EIO, "write only")) };
        let mut text = show()?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    fn store(&self, caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        let Some(store) = &self.store else { return Err(Refusal::new(nix::errno::Errno::EIO, "read only")) };
        let stored = store(value);
        if let Err(refusal) = &stored {
            tracing::info!(tid = caller.tid(), uid = caller.uid(), errno = %refusal.errno(), %refusal, "refused");
            self.refusals.iter().for_each(|last| last.set(refusal));
        }
        stored
    }
}

/// A written value as text, without its final newline.
pub(super) fn word(written: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(written)
        .map_err(|_| Refusal::new(nix::errno::Errno::EINVAL, "what was written is not text"))?;
    Ok(text.strip_suffix('\n').unwrap_or(text))
}

/// Why the last refused write was refused.
#[derive(Default)]
pub(super) struct LastError(Mutex<String>);

impl LastError {
    fn set(&self, refusal: &Refusal) {
        *self.0.lock() = refusal.reason().to_owned();
    }

    /// The attribute that shows it.
    pub fn attribute(self: &Arc<Self>) -> Attr {
        let last = Arc::clone(self);
        Attr::show(move || Ok(last.0.lock().clone()))
    }
}
