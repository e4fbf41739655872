//! Rows of the example in Python that are evidence, and its sweeper (promises S7 and S12). The coordinator is one
//! that answers as it is told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use sqlx::AssertSqlSafe;
use unanimo_proto::v1::Verdict;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::PyShop;
use crate::participant::inquired::Inquired;

/// Coordinator group that the coordinator belongs to.
const OWN: &str = "own";

/// Another one.
const OTHER: &str = "elsewhere";

/// Bound of a row, or the time of its last change, in seconds before now.
type Ago = Option<f64>;

const LONG_AGO: Ago = Some(1e9);
const AN_HOUR_AGO: Ago = Some(3_600.0);
const TOMORROW: Ago = Some(-86_400.0);

/// A row of a step, what the coordinator tells of it, and what becomes of it.
struct Case {
    state: &'static str,
    group: &'static str,
    bound: Ago,
    changed: Ago,
    told: (Verdict, bool),
    becomes: &'static str,
}

const fn case(
    state: &'static str,
    bound: Ago,
    told: (Verdict, bool),
    becomes: &'static str,
) -> Case {
    Case { state, group: OWN, bound, changed: LONG_AGO, told, becomes }
}

const fn of_another_group(case: &Case) -> Case {
    Case { group: OTHER, ..*case }
}

const NOTHING: (Verdict, bool) = (Verdict::Running, false);

/// Gone from the table.
const GONE: &str = "gone";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Somebody is owed an end, or has to look: nothing is deleted by age, and only COMMIT commits.
    case("prepared", LONG_AGO, NOTHING, "prepared"),
    case("prepared", LONG_AGO, (Verdict::NeverSeen, false), "prepared"),
    case("prepared", LONG_AGO, (Verdict::Purged, true), "prepared"),
    case("prepared", LONG_AGO, (Verdict::Heuristic, true), "prepared"),
    case("prepared", LONG_AGO, (Verdict::Cancel, false), "prepared"),
    case("prepared", LONG_AGO, (Verdict::Cancel, true), "prepared"),
    case("prepared", None, (Verdict::Cancel, true), "prepared"),
    case("prepared", LONG_AGO, (Verdict::Unspecified, false), "prepared"),
    case("prepared", LONG_AGO, (Verdict::Commit, false), "committed"),
    case("prepared", None, (Verdict::Commit, true), "committed"),
    of_another_group(&case("prepared", LONG_AGO, (Verdict::Commit, true), "prepared")),
    // What is committed goes once nobody can ask for it, a day after its bound.
    case("committed", LONG_AGO, (Verdict::Commit, true), GONE),
    case("committed", LONG_AGO, (Verdict::Purged, true), GONE),
    case("committed", LONG_AGO, (Verdict::Commit, false), "committed"),
    case("committed", LONG_AGO, (Verdict::Cancel, true), "committed"),
    case("committed", LONG_AGO, (Verdict::NeverSeen, false), "committed"),
    case("committed", LONG_AGO, (Verdict::Heuristic, true), "committed"),
    case("committed", AN_HOUR_AGO, (Verdict::Commit, true), "committed"),
    case("committed", TOMORROW, (Verdict::Purged, true), "committed"),
    of_another_group(&case("committed", LONG_AGO, (Verdict::Commit, true), "committed")),
    // Of the pivot, and what comes after it: without a bound until the saga has ended, and then a day more.
    case("committed", None, (Verdict::Commit, false), "committed"),
    case("committed", None, (Verdict::Commit, true), "committed"),
    of_another_group(&case("committed", None, (Verdict::Commit, true), "committed")),
    // A late Prepare is refused by its bound, or else by the row.
    case("refused", LONG_AGO, NOTHING, GONE),
    case("refused", AN_HOUR_AGO, NOTHING, "refused"),
    case("refused", None, NOTHING, "refused"),
    case("cancelled", LONG_AGO, NOTHING, GONE),
    case("cancelled", TOMORROW, NOTHING, "cancelled"),
    case("cancelled", None, (Verdict::Purged, true), "cancelled"),
    // A person has to look.
    case("lost", LONG_AGO, (Verdict::Purged, true), "lost"),
    case("running", LONG_AGO, (Verdict::Purged, true), "running"),
    of_another_group(&case("lost", LONG_AGO, (Verdict::Commit, true), "lost")),
];

fn at(ago: Ago) -> Option<f64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    ago.map(|ago| (now.as_secs_f64() - ago).max(1.0))
}

async fn rows(shop: &PyShop) -> BTreeMap<String, (String, Option<f64>)> {
    let rows = sqlx::query_as("SELECT tx_id, state, until FROM barrier");
    let rows: Vec<(String, String, Option<f64>)> =
        rows.fetch_all(&mut shop.database().await).await.unwrap();
    rows.into_iter().map(|(tx_id, state, until)| (tx_id, (state, until))).collect()
}

/// S7, S12: each kind of row of a step, with each verdict: what is evidence stays, whatever its age, and what
/// another coordinator group has to tell is asked of nobody else.
#[tokio::test]
async fn s12_the_shop_in_python_keeps_each_row_of_a_step_that_is_evidence() {
    let coordinator = Inquired::of_group(OWN);
    let endpoint = coordinator.serve().await;
    let mut shop = PyShop::start(&endpoint);
    shop.endpoint().await;
    let mut database = shop.database().await;
    let mut inserts = String::new();
    let ids: Vec<String> = CASES.iter().map(|_| Uuid::now_v7().to_string()).collect();
    let text = |at: Option<f64>| at.map_or("NULL".to_owned(), |at| at.to_string());
    for (tx_id, case) in ids.iter().zip(CASES) {
        let Case { state, group, bound, changed, told: (verdict, ended), .. } = case;
        coordinator.tell_of(tx_id, *verdict, *ended);
        let (bound, changed) = (text(at(*bound)), text(at(*changed)));
        inserts += &format!(
            "INSERT INTO barrier (tx_id, branch_id, cluster_id, mode, state, until, changed_at)
             VALUES ('{tx_id}', 'a', '{group}', 'saga', '{state}', {bound}, {changed});"
        );
    }
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {inserts} COMMIT;")))
        .execute(&mut database)
        .await
        .unwrap();
    // It purges when it starts.
    shop.kill(&endpoint);
    let is_over = async || {
        let rows = rows(&shop).await;
        let of = |(tx_id, case): (&String, &Case)| {
            let state = rows.get(tx_id).map_or(GONE, |(state, _)| state);
            state == case.becomes || case.becomes == case.state
        };
        ids.iter().zip(CASES).all(of).then_some(())
    };
    until("the rows to be swept and purged", is_over).await;
    // Several sweeps more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rows = rows(&shop).await;
    for (number, (tx_id, case)) in ids.iter().zip(CASES).enumerate() {
        let (state, bound) = rows.get(tx_id).map_or((GONE, None), |(state, at)| (&**state, *at));
        assert_eq!(state, case.becomes, "S12: row {number}, {} of {}", case.state, case.group);
        // Nobody but the end of its saga gives a row a bound.
        let ended = case.told == (Verdict::Commit, true) && case.group == OWN;
        let open = case.bound.is_none() && !(ended && case.becomes == "committed");
        assert!(!open || bound.is_none(), "S7: row {number} has the bound {bound:?}");
    }
    let log = shop.log();
    for alarm in ["in_doubt_unknown", "in_doubt_ended"] {
        assert!(log.contains(&format!("alarm={alarm}")), "{alarm}: {log}");
    }
    assert!(log.contains("alarm=in_doubt_other_cluster"), "{log}");
    assert!(!log.contains("not swept") && !log.contains("Traceback"), "{log}");
    let asked = |group: &str| {
        let cases = ids.iter().zip(CASES).filter(|(_, case)| case.group == group);
        cases.map(|(tx_id, _)| coordinator.asked_of(tx_id)).sum::<usize>()
    };
    assert!(asked(OWN) > 0 && asked(OTHER) == 0, "{} and {}", asked(OWN), asked(OTHER));
}
