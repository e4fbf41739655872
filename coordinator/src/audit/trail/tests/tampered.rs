//! The alarm of a chain that is not as it was written.

use std::sync::{LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Dispatch, Event, Metadata, Subscriber};

use super::super::kept::Kept;
use super::*;
use crate::alarm::AUDIT_TAMPERED;

/// Alarms of the log.
#[derive(Clone, Default)]
struct Alarms(Arc<Mutex<Vec<String>>>);

/// Makes listeners more than one: of a single one `tracing` asks another thread whether it listens, and it hears nothing.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Alarms::default()));

impl Alarms {
    /// Listens until the guard is dropped.
    fn listen() -> (Self, DefaultGuard) {
        LazyLock::force(&SECOND);
        let alarms = Self::default();
        let guard = set_default(alarms.clone());
        (alarms, guard)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

impl Visit for &Alarms {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "alarm" {
            self.0.lock().expect("no panic").push(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
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
        event.record(&mut &*self);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The alarm is told once, whoever purges next, and again once the chain was whole meanwhile.
#[tokio::test]
async fn a_chain_that_was_changed_raises_the_alarm_once() {
    let (alarms, _guard) = Alarms::listen();
    let desk = Desk::new().await;
    desk.write(1).await;
    let me = desk.trail.0.me;
    let last = desk.store.audit().ends().await.expect("ends").last;
    let link = AuditLink { number: 2, hash: vec![7; 32] };
    let forged = AuditRow { link, at: Timestamp(0), body: b"forged".to_vec() };
    let added = desk.store.audit().append(me, last, vec![forged], None).await;
    assert!(added.expect("a store"));
    alarms.take();
    let now = desk.days(400);
    for expected in [vec![AUDIT_TAMPERED.to_owned()], Vec::new()] {
        assert_eq!(desk.trail.purge(now, YEAR).await.expect("no purge"), 0);
        let told = alarms.take().into_iter().filter(|alarm| alarm == AUDIT_TAMPERED);
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}

/// Entries that another incarnation purges between the looks at ends and entries leave no gap.
#[tokio::test]
async fn entries_that_another_one_purges_meanwhile_are_no_fault_of_the_chain() {
    let (alarms, _guard) = Alarms::listen();
    let kept = Kept::new().await;
    let clock = Arc::new(Hands(AtomicU64::new(1_000 * DAY_MS)));
    let trail = Trail::new(kept.store(), Arc::clone(&clock) as _, Arc::default(), kept.me);
    for count in 1..=4 {
        let entry = Entry { count, ..Entry::new(Kind::Denied) };
        trail.write(entry).await.expect("it is written");
    }
    kept.purge_at_next_read(2);
    let now = Timestamp(1_400 * DAY_MS);
    assert_eq!(trail.purge(now, YEAR).await.expect("a purge"), 2, "3 and 4");
    assert_eq!(alarms.take(), Vec::<String>::new());
    let left: Vec<u64> = kept.rows().iter().map(|row| row.link.number).collect();
    assert_eq!(left, [5], "the entry about the purge");
}
