//! Payloads of branches that are open at the start (promise L4): the coordinator has them, and one that the new version
//! cannot read is told before the Commit comes.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use unanimo_sdk::client::Executed;
use unanimo_sdk::{
    Call, Json, MySql, Participant, PhaseTwoError, Postgres, PrepareError, Resource, Serve, Sqlite,
    Sweep, Tcc,
};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::relay::Relay;
use unanimo_tests::wait::until;

use super::databases::{Database, OverTokio};

/// Does nothing but to read a payload of this type.
struct Reads<T>(PhantomData<fn() -> T>);

impl<T, R> Tcc<R> for Reads<T>
where
    R: Resource,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Payload = Json<T>;
    type Output = ();

    async fn try_(&self, _: &mut R::Connection, _: &Call<Json<T>>) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        _: &Call<Json<T>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut R::Connection,
        _: &Call<Json<T>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// A version of the participant: the payload of `changed` is a `T`.
fn version<D, T>(database: D) -> Participant<D>
where
    D: Database,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let participant = Participant::new("p", database);
    let participant = participant.tcc("changed", Reads::<T>(PhantomData));
    participant.tcc("other", Reads::<T>(PhantomData)).tcc("same", Reads::<u64>(PhantomData))
}

async fn a_payload_that_the_new_version_cannot_read_is_told<D: Database>() {
    let (alarms, _listening) = Alarms::listen();
    let coordinator = Coordinator::start().await.unwrap();
    let (database, _pool) = D::open().await;
    let old = version::<D, String>(database.clone());
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint());
    let mut old = old.serve(serve.without_sweep()).await.unwrap();
    old.registered().await.unwrap();
    let client = coordinator.client().unwrap();
    let mut tx = client.tcc("open").begin().await.unwrap();
    for (id, action, payload) in [
        ("a", "changed", serde_json::json!("text")),
        ("b", "changed", serde_json::json!("another text")),
        ("c", "same", serde_json::json!(7)),
    ] {
        let executed = tx.execute(id, "p", action, Json(payload)).await.unwrap();
        assert!(matches!(executed, Executed::Prepared(_)), "{executed:?}");
    }
    old.stop().await.unwrap();

    let new = version::<D, u64>(database).service().unwrap();
    // Nobody answers at first.
    let relay = Relay::start().await;
    let sweep = Sweep::default().interval(Duration::from_millis(100));
    let sweeper = new.sweep([relay.url()], sweep).unwrap();
    let sweeps = async |more: u64| {
        let at = sweeper.in_doubt().sweeps + more;
        until("sweeps", async || (sweeper.in_doubt().sweeps >= at).then_some(())).await;
    };
    sweeps(2).await;
    assert_eq!(alarms.named("open_payload_unreadable"), [""; 0]);
    let endpoint = coordinator.endpoint();
    relay.point_to(Some(endpoint.trim_start_matches("http://").parse().unwrap()));
    let told = async || alarms.named("open_payload_unreadable").pop();
    let line = until("the alarm", told).await;
    for words in ["action=\"changed\"", "branches=2", tx.tx_id(), "invalid type"] {
        assert!(line.contains(words), "no {words} in {line}");
    }
    sweeps(3).await;
    assert_eq!(alarms.named("open_payload_unreadable").len(), 1, "once for an action");
    assert_eq!(alarms.named("open_action_gone"), [""; 0]);
    sweeper.stop().await;
    coordinator.stop().await.unwrap();
}

/// A group that is silent keeps nobody from looking at the payloads of another one, and is asked for as long as it
/// takes.
#[tokio::test]
async fn l4_a_silent_group_keeps_no_payload_from_being_looked_at() {
    let (alarms, _listening) = Alarms::listen();
    let groups = [Coordinator::start().await.unwrap(), Coordinator::start().await.unwrap()];
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = Serve::on("127.0.0.1:0").without_sweep();
    let serve = serve.register_with(groups[0].endpoint()).register_with(groups[1].endpoint());
    let mut old = version::<Sqlite, String>(database.clone()).serve(serve).await.unwrap();
    old.registered().await.unwrap();
    // The second group's branches are between the first one's, which are looked at before them and behind them.
    let mut open = Vec::new();
    for (group, action, payload) in [
        (1, "other", serde_json::json!("first")),
        (0, "changed", serde_json::json!("text")),
        (1, "other", serde_json::json!("last")),
    ] {
        let client = groups[group].client().unwrap();
        let gid = format!("open-{}", open.len());
        let mut tx = client.tcc(gid).begin().await.unwrap();
        let executed = tx.execute("a", "p", action, Json(payload)).await.unwrap();
        assert!(matches!(executed, Executed::Prepared(_)), "{executed:?}");
        open.push(tx);
    }
    old.stop().await.unwrap();
    let new = version::<Sqlite, u64>(database).service().unwrap();
    let relay = Relay::start().await;
    let sweep = Sweep::default().interval(Duration::from_millis(10));
    let sweeper = new.sweep([relay.url(), groups[0].endpoint()], sweep).unwrap();
    let told = || alarms.named("open_payload_unreadable");
    let line = until("the alarm", async || told().pop()).await;
    assert!(line.contains("action=\"changed\""), "{line}");
    let long_after = sweeper.in_doubt().sweeps + 150;
    until("sweeps", async || (sweeper.in_doubt().sweeps >= long_after).then_some(())).await;
    assert_eq!(told().len(), 1);
    let endpoint = groups[1].endpoint();
    relay.point_to(Some(endpoint.trim_start_matches("http://").parse().unwrap()));
    until("the other alarm", async || (told().len() == 2).then_some(())).await;
    assert!(told()[1].contains("action=\"other\""), "{:?}", told());
    sweeper.stop().await;
    for group in groups {
        group.stop().await.unwrap();
    }
}

macro_rules! on {
    ($($name:ident: $database:ty,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                a_payload_that_the_new_version_cannot_read_is_told::<$database>().await;
            }
        )*
    };
}

on!(
    l4_a_payload_that_the_new_version_cannot_read_is_told_on_postgres: Postgres,
    l4_a_payload_that_the_new_version_cannot_read_is_told_over_tokio: OverTokio,
    l4_a_payload_that_the_new_version_cannot_read_is_told_on_mariadb: MySql,
    l4_a_payload_that_the_new_version_cannot_read_is_told_on_sqlite: Sqlite,
);
