use super::*;

/// A branch of which everything is said, at times around this one.
fn full(at: u64) -> Progress {
    Progress {
        vote: Some(Vote::Refused),
        voted_at: Some(Timestamp(at + 9)),
        database_id: "019a0000-0000-7000-8000-000000000007".to_owned(),
        unanswered: true,
        released: true,
        refused_by_word: true,
        listed: true,
        locks_asked_at: Some(Timestamp(at - 7)),
        refusal: Some(Refusal { reason: "NO_FUNDS".to_owned(), message: "none left".to_owned() }),
        output_by_word: true,
        refused_after_commit: true,
        output_too_large: true,
        output_dropped: true,
        phase_two: PhaseTwo::Heuristic {
            kind: HeuristicKind::Hazard,
            note: "nobody knows".to_owned(),
            operator: Some("ann".to_owned()),
        },
        ended_at: Some(Timestamp(at + 70_000)),
        prepare_attempts: Attempts {
            count: 3,
            first_at: Timestamp(at),
            last_at: Timestamp(at + 5),
            first_error: Some("first".to_owned()),
            last_error: Some("last".to_owned()),
            working: 2,
        },
        phase_two_attempts: Attempts {
            count: u32::MAX,
            first_at: Timestamp(0),
            last_at: Timestamp(u64::MAX),
            first_error: Some("the same".to_owned()),
            last_error: Some("the same".to_owned()),
            working: 0,
        },
    }
}

/// Branches in which each part is said and left out.
fn several() -> Vec<Progress> {
    let phases = [
        PhaseTwo::Open,
        PhaseTwo::NotOwed,
        PhaseTwo::Owed,
        PhaseTwo::Done,
        PhaseTwo::Heuristic { kind: HeuristicKind::Commit, note: String::new(), operator: None },
        PhaseTwo::Heuristic { kind: HeuristicKind::Rollback, note: String::new(), operator: None },
    ];
    let mut branches: Vec<Progress> =
        phases.into_iter().map(|phase_two| Progress { phase_two, ..Progress::default() }).collect();
    for vote in [Vote::Prepared, Vote::ReadOnly] {
        branches.push(Progress { vote: Some(vote), ..Progress::default() });
    }
    for id in ["db", "019A0000-0000-7000-8000-000000000007", "019a0000000070008000000000000007"] {
        branches.push(Progress { database_id: id.to_owned(), ..Progress::default() });
    }
    for flag in 0..8 {
        let mut branch = Progress::default();
        *[
            &mut branch.unanswered,
            &mut branch.released,
            &mut branch.refused_by_word,
            &mut branch.listed,
            &mut branch.output_by_word,
            &mut branch.refused_after_commit,
            &mut branch.output_too_large,
            &mut branch.output_dropped,
        ][flag] = true;
        branches.push(branch);
    }
    let attempts = Attempts { count: 1, ..Attempts::default() };
    branches.push(Progress { prepare_attempts: attempts.clone(), ..Progress::default() });
    let attempts = Attempts { last_error: Some("one".to_owned()), ..attempts };
    branches.push(Progress { phase_two_attempts: attempts, ..Progress::default() });
    branches.extend([full(1_764_000_000_000), full(1_764_000_000_500)]);
    branches
}

#[test]
fn what_is_put_in_comes_out_and_so_does_json() {
    for branches in [Vec::new(), several()] {
        let json = serde_json::to_string(&branches).expect("it is JSON");
        let json = Column::Json(json);
        assert_eq!(json.read().expect("it can be read"), branches);
        let fields = Column::of(&branches);
        assert_eq!(fields.read().expect("it can be read"), branches);
        let renewed = json.renewed();
        assert!(matches!(renewed, Column::Fields(_)));
        assert_eq!(renewed.read().expect("it can be read"), branches);
    }
    assert_eq!(Column::default().read().expect("it can be read"), []);
}

#[test]
fn what_cannot_be_read_is_told_and_kept() {
    let damaged = Column::Json("[{\"vote\":\"maybe\"}]".to_owned());
    assert!(matches!(damaged.clone().renewed(), Column::Json(_)));
    assert!(matches!(damaged.read(), Err(Error::CorruptJson { what: WHAT, .. })));
    let Column::Fields(bytes) = Column::of(&several()) else { panic!("it has fields") };
    let whole = Column::Fields(bytes.clone()).read().expect("it can be read").len();
    for cut in 0..bytes.len() {
        // Between two branches it is a shorter list, which is not that of the transaction.
        if let Ok(branches) = Column::Fields(bytes[..cut].to_vec()).read() {
            assert!(branches.len() < whole, "cut at {cut}");
        }
    }
    for field in FINISHES + 3..=u8::MAX {
        let later = Column::Fields(vec![1, field, 0]).read();
        let Err(Error::Corrupt { what: WHAT, value }) = later else { panic!("{later:?}") };
        assert_eq!(value, format!("field {field}"));
    }
    // Marks of attempts that are not known.
    assert!(Column::Fields(vec![1, PREPARES, 2, 0, 0, 16, 0]).read().is_err());
    assert!(Column::Fields(vec![99]).read().is_err(), "a later form");
}

#[test]
fn what_is_said_twice_or_out_of_its_order_cannot_be_read() {
    let attempts = |field| vec![field, 2, 0, 0, 0];
    let text = |field| vec![field, 1, b'd'];
    let refusal = vec![REFUSAL, 0, 0];
    let heuristic = vec![HEURISTIC, 1, 0, 0];
    let uuid = |field| [vec![field], vec![7; 16]].concat();
    // In the order in which they are written; several of them are of one kind.
    let kinds: Vec<Vec<Vec<u8>>> = vec![
        vec![vec![PREPARED], vec![READ_ONLY], vec![REFUSED]],
        vec![vec![VOTED_AT, 2]],
        vec![vec![LOCKS_ASKED_AT, 2]],
        vec![vec![ENDED_AT, 2]],
        vec![text(DATABASE), uuid(DATABASE_HYPHENATED), uuid(DATABASE_SIMPLE)],
        vec![vec![UNANSWERED]],
        vec![vec![RELEASED]],
        vec![vec![REFUSED_BY_WORD]],
        vec![vec![LISTED]],
        vec![vec![OUTPUT_BY_WORD]],
        vec![vec![REFUSED_AFTER_COMMIT]],
        vec![vec![OUTPUT_TOO_LARGE]],
        vec![vec![OUTPUT_DROPPED]],
        vec![refusal],
        vec![vec![NOT_OWED], vec![OWED], vec![DONE], heuristic],
        vec![attempts(PREPARES)],
        vec![attempts(FINISHES)],
    ];
    let read = |fields: &[&Vec<u8>]| {
        let mut bytes = vec![1];
        fields.iter().for_each(|field| bytes.extend_from_slice(field));
        bytes.push(END);
        Column::Fields(bytes).read()
    };
    for (place, kind) in kinds.iter().enumerate() {
        for first in kind {
            read(&[first]).expect("it can be read");
            for second in kind {
                assert!(read(&[first, second]).is_err(), "{first:?}, {second:?}");
            }
            for later in kinds[place + 1..].iter().flatten() {
                read(&[first, later]).expect("it can be read");
                assert!(read(&[later, first]).is_err(), "{later:?}, {first:?}");
            }
        }
    }
}

#[test]
fn errors_of_attempts_that_contradict_each_other_cannot_be_read() {
    let read = |marks: u8, rest: &[u8]| {
        let bytes = [&[1, PREPARES, 2, 0, 0, marks], rest, &[END]].concat();
        Column::Fields(bytes).read()
    };
    read(FIRST_ERROR | SAME_ERROR, &[1, b'a']).expect("it can be read");
    // The same as one that there is not, and another one that is the same.
    assert!(read(SAME_ERROR, &[]).is_err());
    let both = FIRST_ERROR | LAST_ERROR | SAME_ERROR;
    assert!(read(both, &[1, b'a', 1, b'b']).is_err());
}
