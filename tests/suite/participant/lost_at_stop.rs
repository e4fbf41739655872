//! Losses of handlers that are not recorded when their process, or one of its services, stops.

use std::time::{Duration, Instant};

use unanimo_proto::v1::Mode;
use unanimo_sdk::{
    Isolation, MySql, Participant, Postgres, Register, Serve, Service, Sqlite, Sweep,
};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;

use super::databases::{Database, OverTokio};
use super::direct::{Branch, branch};
use super::handler::{Deed, Gate, Handler, Job};

/// Time after which the next attempt to record a loss is seconds away: the pauses between them grow.
const RECORDER_PAUSES: Duration = Duration::from_millis(3300);

/// Participant whose database can be hidden from it.
struct World<D: Database> {
    resource: D,
    pool: D::Pool,
    handler: Handler,
}

impl<D: Database> World<D> {
    async fn open() -> Self {
        let (resource, pool) = D::open().await;
        let tables = "CREATE TABLE kept (n int); CREATE TABLE effect (tx_id varchar(36), branch_id varchar(128),
                          what varchar(16))";
        D::run_outside(&pool, tables.to_owned()).await;
        Self { resource, pool, handler: Handler::new(Isolation::ReadCommitted) }
    }

    fn service(&self) -> Service<D> {
        let participant = Participant::new("p", self.resource.clone());
        participant.tcc("work", self.handler.clone()).service().unwrap()
    }

    fn gate(&self) -> &Gate {
        &self.handler.gate
    }

    async fn hide(&self) {
        let rename = "ALTER TABLE unanimo_barrier RENAME TO hidden".to_owned();
        D::run_outside(&self.pool, rename).await;
    }

    async fn show(&self) {
        let rename = "ALTER TABLE hidden RENAME TO unanimo_barrier".to_owned();
        D::run_outside(&self.pool, rename).await;
    }

    async fn state(&self, branch: &Branch) -> Option<String> {
        let state = format!("SELECT state FROM unanimo_barrier WHERE tx_id = '{}'", branch.tx_id());
        D::text(&self.pool, state).await
    }

    /// Has a handler keep something beside its transaction, and the database take no record of that.
    async fn loses(&self, service: &Service<D>) -> Branch {
        let keeps = "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); COMMIT";
        let prepare = Deed::RunAndWait(keeps.to_owned(), "SELECT 1".to_owned());
        let branch = of(&Job { prepare, phase_two: Deed::Work });
        let (calling, service) = (branch.clone(), service.clone());
        let calling = tokio::spawn(async move { calling.prepare(&service).await });
        self.gate().waiting().await;
        self.hide().await;
        self.gate().open();
        calling.await.unwrap().unwrap_err();
        tokio::time::sleep(RECORDER_PAUSES).await;
        branch
    }
}

fn of(job: &Job) -> Branch {
    Branch { payload: serde_json::to_vec(job).unwrap().into(), ..branch(Mode::Tcc, "work") }
}

fn serve(drain: Duration) -> Serve {
    Serve::on("127.0.0.1:0").without_sweep().drain_at_most(drain)
}

/// Tells how many alarms speak of the branch, and say this.
fn told(alarms: &Alarms, branch: &Branch, text: &str) -> usize {
    let (lines, tx_id) = (alarms.named("handler_lost_transaction"), branch.tx_id().to_string());
    lines.iter().filter(|line| line.contains(&tx_id) && line.contains(text)).count()
}

const STOPPED: &str = "the participant has stopped";
const ENDED: &str = "the participant has ended";

#[tokio::test]
async fn s11_a_stop_records_what_handlers_have_lost() {
    async fn on<D: Database>() {
        let world = World::<D>::open().await;
        let service = world.service();
        let serving = service.serve(serve(Duration::from_secs(30))).await.unwrap();
        let first = world.loses(&service).await;
        world.show().await;
        serving.stop().await.unwrap();
        assert_eq!(world.state(&first).await.as_deref(), Some("running"), "S11");
        // In a server of its own; and the database comes back while it stops.
        let service = world.service();
        let register = Register::at("http://127.0.0.1:1").without_sweep();
        let register = register.drain_at_most(Duration::from_secs(30));
        let registration = service.register(register).await.unwrap();
        let second = world.loses(&service).await;
        let stopping = tokio::spawn(registration.stop());
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!stopping.is_finished(), "it waits for its database");
        world.show().await;
        stopping.await.unwrap().unwrap();
        assert_eq!(world.state(&second).await.as_deref(), Some("running"), "S11");
    }
    on::<Postgres>().await;
    on::<OverTokio>().await;
    on::<MySql>().await;
}

/// The database stays away for longer than a stop may take: a person is told of each branch, and the stop has failed.
#[tokio::test]
async fn s11_a_stop_that_cannot_record_a_loss_fails_loudly() {
    async fn on<D: Database>() {
        let (alarms, _listening) = Alarms::listen();
        let world = World::<D>::open().await;
        let service = world.service();
        let drain = Duration::from_secs(1);
        let serving = service.serve(serve(drain)).await.unwrap();
        let branch = world.loses(&service).await;
        let started = Instant::now();
        let error = serving.stop().await.unwrap_err().to_string();
        let took = started.elapsed();
        assert!(took >= drain && took < drain * 10, "{took:?}");
        let names = [branch.tx_id().to_string(), branch.context.branch_id.clone()];
        assert!(names.iter().all(|name| error.contains(name)), "S11: {error}");
        assert_eq!((told(&alarms, &branch, STOPPED), told(&alarms, &branch, ENDED)), (1, 0));
        assert_eq!(told(&alarms, &branch, "make up for that by hand"), 1, "what is to be done");
        let register = Register::at("http://127.0.0.1:1").without_sweep().drain_at_most(drain);
        let registration = service.register(register).await.unwrap();
        let error = registration.stop().await.unwrap_err().to_string();
        assert!(error.contains(&names[0]), "S11: {error}");
        // Nobody is left who could record it.
        drop((service, world));
        until("the end of all", async || (told(&alarms, &branch, ENDED) == 1).then_some(())).await;
    }
    on::<Postgres>().await;
    on::<MySql>().await;
}

/// Services that have clones of one resource share its losses: the one that is left records them, at the end of an operation
/// or with its next sweep.
#[tokio::test]
async fn s11_a_loss_of_a_service_that_is_gone_is_recorded_by_another_one() {
    async fn on<D: Database>() {
        for by_sweep in [true, false] {
            let world = World::<D>::open().await;
            let (gone, left) = (world.service(), world.service());
            let lost = world.loses(&gone).await;
            drop(gone);
            // Its recorder ends when it comes back from its pause.
            tokio::time::sleep(RECORDER_PAUSES).await;
            world.show().await;
            let sweeping = match by_sweep {
                true => Some(left.sweep(["http://127.0.0.1:1"], Sweep::default()).unwrap()),
                false => {
                    let well = of(&Job { prepare: Deed::Work, phase_two: Deed::Work });
                    well.prepare(&left).await.unwrap();
                    None
                }
            };
            until("the record", async || {
                (world.state(&lost).await.as_deref() == Some("running")).then_some(())
            })
            .await;
            drop(sweeping);
        }
    }
    on::<Postgres>().await;
    on::<MySql>().await;
}

/// SQLite keeps nothing of a transaction that is lost, and a stop has nothing to wait for.
#[tokio::test]
async fn a_stop_without_losses_is_quick() {
    let world = World::<Sqlite>::open().await;
    let serving = world.service().serve(serve(Duration::from_secs(30))).await.unwrap();
    let started = Instant::now();
    serving.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
