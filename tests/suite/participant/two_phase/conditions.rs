//! Prepares with conditions, in two-phase commit.

use super::*;

/// The same branch, as a coordinator asks for it that can no longer abort.
fn must_succeed(branch: Branch) -> Branch {
    let requires = vec!["must_succeed".to_owned()];
    Branch { prepare_until: None, requires, must_succeed: true, ..branch }
}

#[tokio::test]
async fn s7_a_refusal_of_work_that_must_succeed_is_not_stored() {
    let bank = Bank::open().await;
    let broken = format!("{INSERT}; INSERT INTO child VALUES (7)");
    for (action, work, reason) in [
        ("refuse", INSERT, "NO"),
        ("nobody-has-it", INSERT, "ACTION_NOT_OFFERED"),
        ("plain", &broken, "CONSTRAINT_VIOLATED"),
        ("plain", &format!("{INSERT}; CREATE TEMP TABLE t (n integer)"), "CANNOT_BE_PREPARED"),
    ] {
        let branch = must_succeed(sql(action, work));
        for _ in 0..2 {
            assert_eq!(refused(bank.prepare(&branch).await.unwrap()), reason);
            assert_eq!(bank.state(&branch).await, None, "{reason}");
            assert!(bank.prepared().await.is_empty(), "{reason}");
        }
        let healed = Branch { action: "plain".into(), payload: INSERT.into(), ..branch };
        Bank::yes(bank.prepare(&healed).await);
        assert_eq!(bank.prepared().await, [healed.name()]);
        bank.commit(&healed).await;
    }
    assert_eq!(bank.effects().await, 4, "S7: the work that was refused is undone");
    bank.is_clean().await;
}

#[tokio::test]
async fn s7_a_refusal_of_a_read_that_must_succeed_is_not_stored() {
    let bank = Bank::open().await;
    let branch = must_succeed(sql("read", INSERT));
    for _ in 0..2 {
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "READ_ONLY_VIOLATED");
        assert_eq!(bank.state(&branch).await, None);
    }
    let healed = Branch { payload: "SELECT 1".into(), ..branch };
    let answer = bank.prepare(&healed).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::ReadOnly(_)), "{answer:?}");
    assert_eq!(bank.state(&healed).await.as_deref(), Some("read_only"));
}

#[tokio::test]
async fn s7_an_unknown_requirement_is_refused_and_stored() {
    let bank = Bank::open().await;
    for action in ["plain", "read", "nobody-has-it"] {
        let branch = Branch { requires: vec!["sealed".to_owned()], ..sql(action, INSERT) };
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "FEATURE_UNSUPPORTED");
        assert_eq!(bank.state(&branch).await.as_deref(), Some("refused"), "{action}");
        let known = Branch { requires: Vec::new(), ..branch };
        assert_eq!(refused(bank.prepare(&known).await.unwrap()), "FEATURE_UNSUPPORTED", "S7");
        bank.cancel(&known).await;
    }
    assert_eq!((bank.effects().await, bank.prepared().await.len()), (0, 0));
}
