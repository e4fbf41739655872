//! Replicas of two versions over one database, and work outside of it that only the newer one knows (promises S7 and
//! S8): the same cases on every database.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use unanimo_proto::v1::cancel_response::Answer as Cancelled;
use unanimo_proto::v1::prepare_response::Answer as Voted;
use unanimo_proto::v1::{HeuristicKind, Mode};
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, PrepareError, SagaOutside, Service, TccOutside, fail,
};
use uuid::Uuid;

use super::databases::Database;
use super::direct::{Branch, branch, refused};

macro_rules! on_every_database {
    ($($case:ident,)*) => {
        on_every_database!(@ postgres, Postgres, $($case,)*);
        on_every_database!(@ tokio_postgres, OverTokio, $($case,)*);
        on_every_database!(@ mariadb, MySql, $($case,)*);
        on_every_database!(@ sqlite, Sqlite, $($case,)*);
    };
    (@ $module:ident, $database:ident, $($case:ident,)*) => {
        mod $module {
            use super::World;
            use crate::participant::databases::$database;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(World::<$database>::open().await).await;
                }
            )*
        }
    };
}

on_every_database!(
    s7_what_an_older_replica_refused_is_cancelled_outside,
    s7_a_refusal_of_who_knows_the_work_is_undone_once,
    s11_a_cancel_of_refused_work_that_fails_is_not_done,
    s7_what_nobody_can_read_is_done,
);

/// The payload of the older version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Old {}

/// The payload of the newer one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct New {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dies: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cancel_fails: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refuses: bool,
}

/// The other service: whom it holds something for, and each call to release.
#[derive(Debug, Default)]
struct Elsewhere {
    held: BTreeSet<Uuid>,
    releases: Vec<Uuid>,
}

/// Holds something elsewhere; of a version by its payload.
#[derive(Clone, Debug, Default)]
struct Pay(Arc<Mutex<Elsewhere>>);

impl Pay {
    fn elsewhere(&self) -> std::sync::MutexGuard<'_, Elsewhere> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self, call: &Call<Json<New>>) -> Result<(), PrepareError> {
        self.elsewhere().held.insert(call.branch.tx_id);
        if call.payload.refuses {
            return unanimo_sdk::refuse("NO", "said the handler");
        }
        if call.payload.dies { fail("as if the process died") } else { Ok(()) }
    }

    async fn back<D: Database>(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<New>>,
    ) -> Result<(), PhaseTwoError> {
        let tx_id = call.branch.tx_id;
        D::run(db, format!("INSERT INTO effect VALUES ('{tx_id}')")).await?;
        self.elsewhere().releases.push(tx_id);
        if call.payload.cancel_fails {
            return fail("as if the process died");
        }
        self.elsewhere().held.remove(&tx_id);
        Ok(())
    }
}

impl<D: Database> TccOutside<D> for Pay {
    type Payload = Json<New>;
    type Output = ();

    async fn try_(
        &self,
        _: &mut D::Connection,
        call: &Call<Json<New>>,
    ) -> Result<(), PrepareError> {
        self.first(call)
    }

    async fn confirm(
        &self,
        _: &mut D::Connection,
        _: &Call<Json<New>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<New>>,
        output: Option<()>,
    ) -> Result<(), PhaseTwoError> {
        assert_eq!(output, None, "nothing is known of phase one");
        self.back::<D>(db, call).await
    }
}

impl<D: Database> SagaOutside<D> for Pay {
    type Payload = Json<New>;
    type Output = ();

    async fn run(&self, _: &mut D::Connection, call: &Call<Json<New>>) -> Result<(), PrepareError> {
        self.first(call)
    }

    async fn compensate(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<New>>,
        _: Option<()>,
    ) -> Result<(), PhaseTwoError> {
        self.back::<D>(db, call).await
    }
}

/// The same action as the older version has it.
#[derive(Clone, Debug)]
struct OldPay;

impl<D: Database> TccOutside<D> for OldPay {
    type Payload = Json<Old>;
    type Output = ();

    async fn try_(&self, _: &mut D::Connection, _: &Call<Json<Old>>) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut D::Connection,
        _: &Call<Json<Old>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut D::Connection,
        _: &Call<Json<Old>>,
        _: Option<()>,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// Replicas of a participant over one database.
struct World<D: Database> {
    pool: D::Pool,
    pay: Pay,
    newer: Service<D>,
    /// Does not know the action.
    older: Service<D>,
    /// Has it in another mode.
    otherwise: Service<D>,
    /// Reads another payload.
    narrower: Service<D>,
}

impl<D: Database> World<D> {
    async fn open() -> Self {
        let (resource, pool) = D::open().await;
        D::run_outside(&pool, "CREATE TABLE effect (tx_id varchar(36) NOT NULL)".to_owned()).await;
        let pay = Pay::default();
        let participant = || Participant::new("p", resource.clone());
        let newer = participant().tcc_outside("pay", pay.clone()).saga_outside("step", pay.clone());
        let otherwise = participant().tcc_outside("step", pay.clone());
        let otherwise = otherwise.saga_outside("pay", pay.clone());
        let narrower = participant().tcc_outside("pay", OldPay).tcc_outside("step", OldPay);
        Self {
            pool,
            pay,
            newer: newer.service().unwrap(),
            older: participant().service().unwrap(),
            otherwise: otherwise.service().unwrap(),
            narrower: narrower.service().unwrap(),
        }
    }

    fn is_held(&self, branch: &Branch) -> bool {
        self.pay.elsewhere().held.contains(&branch.tx_id())
    }

    fn releases(&self, branch: &Branch) -> usize {
        let elsewhere = self.pay.elsewhere();
        elsewhere.releases.iter().filter(|key| **key == branch.tx_id()).count()
    }

    /// Number of effects of Cancel in the database.
    async fn effects(&self, branch: &Branch) -> i64 {
        let tx_id = branch.tx_id();
        let count = format!("SELECT count(*) FROM effect WHERE tx_id = '{tx_id}'");
        D::number(&self.pool, count).await
    }

    async fn state(&self, branch: &Branch) -> Option<String> {
        let tx_id = branch.tx_id();
        let state = format!("SELECT state FROM unanimo_barrier WHERE tx_id = '{tx_id}'");
        D::text(&self.pool, state).await
    }

    /// Reason with which a replica refuses it.
    async fn refusal(replica: &Service<D>, branch: &Branch) -> String {
        refused(branch.prepare(replica).await.unwrap())
    }

    async fn is_done(replica: &Service<D>, branch: &Branch) -> bool {
        matches!(branch.cancel(replica).await, Ok(Cancelled::Done(_)))
    }
}

/// The same branch that is asked for otherwise.
fn with(branch: &Branch, payload: &New) -> Branch {
    Branch { payload: serde_json::to_vec(payload).unwrap().into(), ..branch.clone() }
}

/// One that died behind its request elsewhere.
async fn died<D: Database>(world: &World<D>, mode: Mode) -> Branch {
    let action = if mode == Mode::Tcc { "pay" } else { "step" };
    let dies = New { dies: true, ..New::default() };
    let branch = with(&branch(mode, action), &dies);
    branch.prepare(&world.newer).await.unwrap_err();
    assert!(world.is_held(&branch));
    assert_eq!(world.state(&branch).await, None, "nothing tells of it");
    branch
}

async fn s7_what_an_older_replica_refused_is_cancelled_outside<D: Database>(world: World<D>) {
    let sealed = |branch: &Branch| Branch { requires: vec!["sealed".to_owned()], ..branch.clone() };
    let late = |branch: &Branch| {
        let ago = SystemTime::now() - Duration::from_secs(60);
        Branch { prepare_until: Some(ago.into()), ..branch.clone() }
    };
    let same = |branch: &Branch| branch.clone();
    type Change<'a> = &'a dyn Fn(&Branch) -> Branch;
    let World { newer, older, otherwise, narrower, .. } = &world;
    for mode in [Mode::Tcc, Mode::Saga] {
        let unreadable = if mode == Mode::Tcc { "PAYLOAD_UNREADABLE" } else { "MODE_NOT_OFFERED" };
        let cases: [(&Service<D>, Change<'_>, &str); 5] = [
            (older, &same, "ACTION_NOT_OFFERED"),
            (older, &late, "ACTION_NOT_OFFERED"),
            (otherwise, &same, "MODE_NOT_OFFERED"),
            (narrower, &same, unreadable),
            (newer, &sealed, "FEATURE_UNSUPPORTED"),
        ];
        for (replica, change, reason) in cases {
            let branch = died(&world, mode).await;
            assert_eq!(World::refusal(replica, &change(&branch)).await, reason, "{mode:?}");
            assert_eq!(world.state(&branch).await.as_deref(), Some("refused"), "{reason}");
            assert_eq!(World::refusal(newer, &branch).await, reason, "S7: the stored answer");
            for _ in 0..2 {
                assert!(World::is_done(newer, &branch).await, "{reason}");
                assert!(!world.is_held(&branch), "S7: {mode:?}, {reason}");
                assert_eq!((world.releases(&branch), world.effects(&branch).await), (1, 1), "S7");
            }
            assert_eq!(world.state(&branch).await.as_deref(), Some("cancelled"));
            let well = with(&branch, &New::default());
            assert_eq!(World::refusal(newer, &well).await, "ALREADY_ENDED", "S8");
            assert!(!world.is_held(&branch), "S8");
            // It stays undone, whoever says otherwise.
            let heuristic = branch.commit(newer).await.unwrap();
            let unanimo_proto::v1::commit_response::Answer::Heuristic(heuristic) = heuristic else {
                panic!("{heuristic:?}")
            };
            assert_eq!(heuristic.kind(), HeuristicKind::Rollback, "S11");
        }
    }
}

/// A no that was stored behind its own cancel is not cancelled once more.
async fn s7_a_refusal_of_who_knows_the_work_is_undone_once<D: Database>(world: World<D>) {
    let no = with(&branch(Mode::Tcc, "pay"), &New { refuses: true, ..New::default() });
    assert_eq!(World::refusal(&world.newer, &no).await, "NO");
    let ago = SystemTime::now() - Duration::from_secs(60);
    let late = died(&world, Mode::Tcc).await;
    let late = Branch { prepare_until: Some(ago.into()), ..late };
    assert_eq!(World::refusal(&world.newer, &late).await, "TOO_LATE");
    for branch in [&no, &late] {
        assert_eq!((world.releases(branch), world.effects(branch).await), (1, 1));
        assert!(World::is_done(&world.newer, branch).await);
        assert_eq!((world.releases(branch), world.effects(branch).await), (1, 1), "S7");
        assert!(!world.is_held(branch));
    }
}

async fn s11_a_cancel_of_refused_work_that_fails_is_not_done<D: Database>(world: World<D>) {
    let branch = died(&world, Mode::Tcc).await;
    assert_eq!(World::refusal(&world.older, &branch).await, "ACTION_NOT_OFFERED");
    let fails = with(&branch, &New { cancel_fails: true, ..New::default() });
    for _ in 0..2 {
        assert!(!World::is_done(&world.newer, &fails).await);
        assert_eq!(world.state(&branch).await.as_deref(), Some("refused"));
        assert_eq!(world.effects(&branch).await, 0);
    }
    assert!(World::is_done(&world.newer, &branch).await);
    assert_eq!(world.effects(&branch).await, 1);
    assert!(!world.is_held(&branch), "S7");
}

/// Nobody can have worked on it, and nobody is asked for ever.
async fn s7_what_nobody_can_read_is_done<D: Database>(world: World<D>) {
    let garbage = Branch { payload: "{".into(), ..branch(Mode::Tcc, "pay") };
    assert_eq!(World::refusal(&world.newer, &garbage).await, "PAYLOAD_UNREADABLE");
    assert!(World::is_done(&world.newer, &garbage).await);
    let unknown = branch(Mode::Tcc, "nothing");
    assert_eq!(World::refusal(&world.older, &unknown).await, "ACTION_NOT_OFFERED");
    assert!(World::is_done(&world.older, &unknown).await);
    let answer = unknown.prepare(&world.older).await.unwrap();
    assert!(matches!(answer, Voted::Refused(_)), "{answer:?}");
    assert!(world.pay.elsewhere().releases.is_empty());
}
