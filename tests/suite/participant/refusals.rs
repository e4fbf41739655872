//! Errors of the database: one that speaks of the work is a vote no, and one that speaks of itself is none.

use std::time::Duration;

use tonic::transport::server::TcpIncoming;
use unanimo_proto::v1::Mode;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::participant_service_server::ParticipantServiceServer;
use unanimo_proto::v1::{PrepareRequest, prepare_response};
use unanimo_sdk::{
    Call, Isolation, MySql, Participant, PhaseTwoError, Postgres, PrepareError, Service, Sqlite,
    Tcc,
};

use super::calls::{Branch, End, Vote, World};
use super::databases::{Database, OverPlain, OverTokio};
use super::direct::branch;
use super::handler::{Deed, Job};

/// A trigger that raises at the end of a transaction, with this code.
fn raising(code: &str) -> String {
    format!(
        "CREATE TABLE watched (n integer);
         CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'the rule of the house' USING ERRCODE = '{code}';
         END $$;
         CREATE CONSTRAINT TRIGGER complain AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION complain()"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_what_a_deferred_trigger_raises_is_a_no() {
    what_a_deferred_trigger_raises_is_a_no::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_what_a_deferred_trigger_raises_is_a_no_over_tokio() {
    what_a_deferred_trigger_raises_is_a_no::<OverTokio>().await;
}

async fn what_a_deferred_trigger_raises_is_a_no<D: Database>() {
    for (code, expected) in [
        ("P0001", Vote::refused("DATABASE_REFUSED")),
        ("22012", Vote::refused("DATABASE_REFUSED")),
        ("45000", Vote::refused("DATABASE_REFUSED")),
        ("U0001", Vote::refused("DATABASE_REFUSED")),
        ("23514", Vote::refused("CONSTRAINT_VIOLATED")),
        // Of the database itself.
        ("40001", Vote::Unanswered),
        ("53100", Vote::Unanswered),
        ("57014", Vote::Unanswered),
        ("XX000", Vote::Unanswered),
    ] {
        let world = World::<D>::open(Isolation::ReadCommitted).await;
        D::run_outside(&world.pool, raising(code)).await;
        let deed = Deed::ThenRun("INSERT INTO watched VALUES (1)".to_owned());
        let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: Deed::Work });
        assert_eq!(world.prepare(&branch).await, expected, "{code}");
        assert_eq!(world.prepare(&branch).await, expected, "{code}: again");
        let runs = if expected == Vote::Unanswered { 2 } else { 1 };
        assert_eq!(world.runs(), runs, "{code}: a stored no is not asked again");
        assert_eq!(world.effects(&branch, "try").await, 0, "{code}");
        assert_eq!(world.cancel(&branch).await, End::Done);
        // It is no answer to a Commit.
        let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: deed });
        assert!(world.prepare(&branch).await.is_prepared());
        assert_eq!(world.commit(&branch).await, End::Unanswered, "{code}");
        assert_eq!(world.state(&branch).await.as_deref(), Some("prepared"));
    }
}

/// Error that shows another one in its own place, as `#[error(transparent)]` and `anyhow` do.
#[derive(Debug)]
pub(super) struct Transparent<E>(pub(super) E);

impl<E: std::error::Error> std::fmt::Display for Transparent<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl<E: std::error::Error> std::error::Error for Transparent<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Runs its payload, and passes errors on.
pub(super) struct Sql(pub(super) Isolation);

macro_rules! sql_on {
    ($resource:ty) => {
        impl Tcc<$resource> for Sql {
            type Payload = bytes::Bytes;
            type Output = ();

            async fn try_(
                &self,
                db: &mut <$resource as unanimo_sdk::Resource>::Connection,
                call: &Call<bytes::Bytes>,
            ) -> Result<(), PrepareError> {
                let text = String::from_utf8(call.payload.to_vec()).unwrap();
                if let Some(length) = text.strip_prefix("fail ") {
                    let text = "é".repeat(length.parse().unwrap());
                    return Err(PrepareError::Failed(text.into()));
                }
                match text.strip_prefix("wrapped ") {
                    Some(sql) => {
                        let ran = <$resource as Database>::run(db, sql.to_owned()).await;
                        ran.map_err(Transparent)?;
                    }
                    None => drop(<$resource as Database>::run(db, text).await?),
                }
                Ok(())
            }

            async fn confirm(
                &self,
                _: &mut <$resource as unanimo_sdk::Resource>::Connection,
                _: &Call<bytes::Bytes>,
                (): (),
            ) -> Result<(), PhaseTwoError> {
                Ok(())
            }

            async fn cancel(
                &self,
                _: &mut <$resource as unanimo_sdk::Resource>::Connection,
                _: &Call<bytes::Bytes>,
                (): (),
            ) -> Result<(), PhaseTwoError> {
                Ok(())
            }

            fn isolation(&self) -> Isolation {
                self.0
            }
        }
    };
}

sql_on!(Postgres);
sql_on!(OverTokio);
sql_on!(OverPlain);
sql_on!(MySql);
sql_on!(Sqlite);

const TABLES: &str = "
    CREATE TABLE t (n integer NOT NULL UNIQUE);
    INSERT INTO t VALUES (1);
    CREATE TABLE checked (n integer CHECK (n > 0), size varchar(3), parent integer,
        FOREIGN KEY (parent) REFERENCES t (n))";

/// A participant whose one action runs its payload, and a branch of it for each statement.
async fn service<D: Database>(isolation: Isolation) -> (Service<D>, D::Pool)
where
    Sql: Tcc<D>,
{
    let (resource, pool) = D::open().await;
    D::run_outside(&pool, TABLES.to_owned()).await;
    (Participant::new("p", resource).tcc("sql", Sql(isolation)).service().unwrap(), pool)
}

fn of(sql: &str) -> super::direct::Branch {
    let payload = bytes::Bytes::copy_from_slice(sql.as_bytes());
    super::direct::Branch { payload, ..branch(Mode::Tcc, "sql") }
}

async fn is_refused<D: Database>(isolation: Isolation, statements: &[&str])
where
    Sql: Tcc<D>,
{
    let (service, _pool) = service::<D>(isolation).await;
    for sql in statements {
        let branch = of(sql);
        let answer = branch.prepare(&service).await;
        let Ok(prepare_response::Answer::Refused(refusal)) = answer else {
            panic!("{sql}: {answer:?}")
        };
        assert!(!refusal.message.is_empty(), "{sql}: with its text");
        let again = branch.prepare(&service).await.unwrap();
        assert_eq!(again, prepare_response::Answer::Refused(refusal), "{sql}: stored");
    }
}

/// Each is asked again, nothing of it is stored, and its Cancel is done.
async fn is_no_vote<D: Database>(isolation: Isolation, statements: &[&str])
where
    Sql: Tcc<D>,
{
    let (service, pool) = service::<D>(isolation).await;
    for sql in statements {
        let branch = of(sql);
        for _ in 0..2 {
            let status = branch.prepare(&service).await.expect_err(sql);
            assert_eq!(status.code(), tonic::Code::Unknown, "{sql}: {status:?}");
        }
        let row = format!(
            "SELECT count(*) FROM unanimo_barrier WHERE tx_id = '{}'",
            branch.context.tx_id
        );
        assert_eq!(D::number(&pool, row).await, 0, "{sql}");
        // What stood in its way is mended.
        let mended = super::direct::Branch { payload: of("SELECT 1").payload, ..branch.clone() };
        let answer = mended.prepare(&service).await.unwrap();
        assert!(matches!(answer, prepare_response::Answer::Prepared(_)), "{sql}: {answer:?}");
        branch.cancel(&service).await.unwrap();
    }
}

const OF_THE_WORK: [&str; 4] = [
    "INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (NULL)",
    "INSERT INTO checked VALUES (0, NULL, NULL)",
    "INSERT INTO checked VALUES (1, NULL, 4711)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_an_error_of_the_work_that_a_handler_passes_on_is_a_no() {
    let at = Isolation::ReadCommitted;
    let values = [
        "INSERT INTO t VALUES (1 / 0)",
        "INSERT INTO t VALUES (10000000000)",
        "INSERT INTO t VALUES ('x')",
        "INSERT INTO checked VALUES (1, 'too long', NULL)",
    ];
    is_refused::<Postgres>(at, &OF_THE_WORK).await;
    is_refused::<Postgres>(at, &values).await;
    let raised = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AB123'; END $$";
    is_refused::<Postgres>(at, &["DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", raised]).await;
    let over_tokio = is_refused::<OverTokio>;
    over_tokio(at, &OF_THE_WORK).await;
    over_tokio(at, &values).await;
    over_tokio(at, &[raised]).await;
    is_refused::<MySql>(at, &OF_THE_WORK).await;
    is_refused::<MySql>(at, &values[1..]).await;
    let signal = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'";
    is_refused::<MySql>(at, &[signal, "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30001"]).await;
    // A class of the service's own, with a number of its own.
    is_refused::<MySql>(at, &["SIGNAL SQLSTATE 'U0001' SET MYSQL_ERRNO = 31001"]).await;
    is_refused::<Sqlite>(at, &OF_THE_WORK).await;
    // What is not a snapshot's is a no in each isolation.
    is_refused::<Postgres>(Isolation::RepeatableRead, &OF_THE_WORK[1..]).await;
    is_refused::<OverTokio>(Isolation::RepeatableRead, &OF_THE_WORK[1..]).await;
    is_refused::<MySql>(Isolation::RepeatableRead, &OF_THE_WORK[1..]).await;
    is_refused::<Sqlite>(Isolation::RepeatableRead, &OF_THE_WORK).await;
}

/// A service has error types of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_an_error_of_the_work_that_a_handler_wraps_is_a_no() {
    let at = Isolation::ReadCommitted;
    let wrapped = OF_THE_WORK.map(|sql| format!("wrapped {sql}"));
    let wrapped = wrapped.each_ref().map(String::as_str);
    is_refused::<Postgres>(at, &wrapped).await;
    is_refused::<OverTokio>(at, &wrapped).await;
    is_refused::<OverPlain>(at, &wrapped).await;
    is_refused::<MySql>(at, &wrapped).await;
    is_refused::<Sqlite>(at, &wrapped).await;
    is_no_vote::<Sqlite>(at, &["wrapped SELEC 1"]).await;
}

/// Columns and tables that are not there yet, or not any more, while a new version is rolled out; what a role
/// may not do; and a row that the snapshot of REPEATABLE READ does not show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_an_error_that_may_be_over_later_is_no_vote() {
    let at = Isolation::ReadCommitted;
    let of_the_schema = [
        "INSERT INTO t (later) VALUES (2)",
        "INSERT INTO later VALUES (2)",
        "SELECT later FROM t",
        "SELECT later(1)",
        "INSERT INTO t VALUES (2, 3)",
        "SELEC 1",
    ];
    is_no_vote::<Postgres>(at, &of_the_schema).await;
    is_no_vote::<OverTokio>(at, &of_the_schema).await;
    is_no_vote::<MySql>(at, &of_the_schema).await;
    is_no_vote::<Sqlite>(at, &of_the_schema).await;
    is_no_vote::<Postgres>(
        at,
        &[
            "INSERT INTO later.t VALUES (2)",
            "SET LOCAL ROLE pg_monitor; INSERT INTO public.t VALUES (2)",
            "CREATE TABLE t (n integer)",
            "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$",
            "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$",
        ],
    )
    .await;
    let ambiguous = "SELECT n FROM t JOIN checked ON true";
    let without_default = "INSERT INTO t () VALUES ()";
    let no_database = "INSERT INTO later.t VALUES (2)";
    is_no_vote::<MySql>(at, &[ambiguous, without_default, no_database]).await;
    let exclusive = ["INSERT INTO t VALUES (1)"];
    is_no_vote::<Postgres>(Isolation::RepeatableRead, &exclusive).await;
    is_no_vote::<OverTokio>(Isolation::RepeatableRead, &exclusive).await;
    is_no_vote::<MySql>(Isolation::RepeatableRead, &exclusive).await;
}

/// A text of 90,000 characters would end the connection, and every other call on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_long_error_ends_its_own_call_only() {
    let (resource, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", resource)
        .tcc("sql", Sql(Isolation::ReadCommitted))
        .service()
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(ParticipantServiceServer::new(service))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    let client = ParticipantServiceClient::connect(endpoint).await.unwrap();
    let call = |payload: String| {
        let of = branch(Mode::Tcc, "sql");
        let mut client = client.clone();
        async move {
            let request = PrepareRequest {
                context: Some(of.context),
                action: of.action,
                payload: unanimo_tests::payload(payload),
                ..PrepareRequest::default()
            };
            client.prepare(request).await
        }
    };
    for length in [300, 5_000, 30_000, 90_000] {
        let status = call(format!("fail {length}")).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unknown, "{length}: {status:?}");
        assert!(status.message().starts_with("the handler failed: éé"), "{status:?}");
        let well = tokio::time::timeout(Duration::from_secs(30), call("SELECT 1".to_owned())).await;
        well.unwrap().unwrap();
    }
}
