//! Alarms that a test hears: the field `alarm` of log lines, and lines of level ERROR.

use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Makes listeners more than one at all times. Of a single one `tracing` asks the thread that comes first to a line of
/// code whether it listens; another test's does not, and nobody would hear the line ever again.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Alarms::default()));

/// Has a subscriber hear everything of this thread until the guard is dropped.
///
/// Tests set theirs by this alone: of a single one lines are lost, see `SECOND`.
#[must_use]
pub fn hear(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    LazyLock::force(&SECOND);
    set_default(subscriber)
}

/// Lines that were heard since it was made, on its thread.
#[derive(Clone, Debug, Default)]
pub struct Alarms(Arc<Mutex<Vec<String>>>);

impl Alarms {
    /// Listens until the guard is dropped.
    #[must_use]
    pub fn listen() -> (Self, DefaultGuard) {
        let alarms = Self::default();
        let guard = hear(alarms.clone());
        (alarms, guard)
    }

    /// Listens on this thread until the thread ends: for the threads of a runtime that has several.
    pub fn listen_on_this_thread(&self) {
        std::mem::forget(hear(self.clone()));
    }

    /// Returns the lines with this alarm: all their fields.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<String> {
        self.beginning(&format!("alarm={name:?} "))
    }

    /// Returns the lines of level ERROR that have no alarm.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.beginning("error ")
    }

    fn beginning(&self, begin: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.starts_with(begin)).cloned().collect()
    }
}

#[derive(Default)]
struct Line {
    alarm: Option<String>,
    rest: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{}={value:?} ", field.name());
        match field.name() {
            "alarm" => self.alarm = Some(text),
            _ => self.rest.push_str(&text),
        }
    }
}

impl Subscriber for Alarms {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let error = || (*event.metadata().level() == Level::ERROR).then(|| "error ".to_owned());
        if let Some(begin) = line.alarm.or_else(error) {
            let line = format!("{begin}{}", line.rest);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
