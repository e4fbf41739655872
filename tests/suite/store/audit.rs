//! The audit's chain: one end, pages, and a purge.

use unanimo_coordinator::store::{AuditEnds, AuditLink, AuditRange, AuditRow, Error};
use unanimo_core::Timestamp;

use super::{Fixture, on_both_stores};

on_both_stores!(
    an_entry_is_added_behind_the_last_one_alone,
    s5_whoever_is_fenced_adds_nothing_to_the_audit,
);

pub(super) fn link(number: u64, byte: u8) -> AuditLink {
    AuditLink { number, hash: vec![byte; 32] }
}

pub(super) fn row(number: u64, byte: u8) -> AuditRow {
    AuditRow { link: link(number, byte), at: Timestamp(number), body: vec![byte; 3] }
}

async fn an_entry_is_added_behind_the_last_one_alone(fixture: Fixture) {
    let (audit, me) = (fixture.store.audit(), fixture.me);
    let ends = |purged, last| AuditEnds { purged, last };
    assert_eq!(audit.ends().await.unwrap(), ends(link(0, 0), link(0, 0)));
    let first = vec![row(1, 1), row(2, 2), row(3, 3)];
    assert!(audit.append(me, link(0, 0), first.clone(), None).await.unwrap());
    // Whoever takes another end for the last one, by its number or by its hash, writes nothing.
    for follows in [link(0, 0), link(2, 2), link(3, 9), link(4, 4)] {
        let more = vec![row(follows.number + 1, 7)];
        let purged = Some(link(2, 2));
        assert!(!audit.append(me, follows, more, purged).await.unwrap());
    }
    assert_eq!(audit.ends().await.unwrap(), ends(link(0, 0), link(3, 3)));
    assert_eq!(audit.page(AuditRange::After(0), 9).await.unwrap(), first);
    assert!(audit.append(me, link(3, 3), vec![row(4, 4)], Some(link(2, 2))).await.unwrap());
    assert_eq!(audit.ends().await.unwrap(), ends(link(2, 2), link(4, 4)));
    // A purge never goes back, and none is told twice.
    for number in [1, 2] {
        let purged = Some(link(number, u8::try_from(number).unwrap()));
        let again = audit.append(me, link(4, 4), vec![row(5, 5)], purged).await.unwrap();
        assert!(!again, "{number}: what is purged stays purged");
        assert_eq!(audit.ends().await.unwrap(), ends(link(2, 2), link(4, 4)));
    }
    let page = async |range, limit| audit.page(range, limit).await.unwrap();
    assert_eq!(page(AuditRange::After(0), 9).await, [row(3, 3), row(4, 4)]);
    assert_eq!(page(AuditRange::After(2), 1).await, [row(3, 3)]);
    assert_eq!(page(AuditRange::Before(u64::MAX), 9).await, [row(4, 4), row(3, 3)]);
    assert_eq!(page(AuditRange::Before(4), 9).await, [row(3, 3)]);
}

async fn s5_whoever_is_fenced_adds_nothing_to_the_audit(fixture: Fixture) {
    let (audit, me) = (fixture.store.audit(), fixture.me);
    assert!(audit.append(me, link(0, 0), vec![row(1, 1)], None).await.unwrap());
    fixture.store.incarnations().fence(me, "a test").await.unwrap();
    let written = audit.append(me, link(1, 1), vec![row(2, 2)], Some(link(1, 1))).await;
    assert!(matches!(written, Err(Error::Fenced(_))), "{written:?}");
    assert_eq!(audit.page(AuditRange::After(0), 9).await.unwrap(), [row(1, 1)]);
    assert_eq!(audit.ends().await.unwrap().last, link(1, 1));
}
