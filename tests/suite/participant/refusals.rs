//! Errors of the database: one that speaks of the work is a vote no, and one that speaks of itself is none.

use std::time::Duration;

use tonic::transport::server::TcpIncoming;
use unanimo_proto::v1::Mode;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::participant_service_server::ParticipantServiceServer;
use unanimo_proto::v1::{PrepareRequest, prepare_response};
use unanimo_sdk::{
    Call, Isolation, MySql, Participant, PhaseTwoError, Postgres, PrepareError, Sqlite, Tcc,
};

use super::calls::{Branch, End, Vote, World};
use super::databases::Database;
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
        let world = World::<Postgres>::open(Isolation::ReadCommitted).await;
        Postgres::run_outside(&world.pool, raising(code)).await;
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

/// Runs its payload, and passes errors on.
struct Sql;

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
                <$resource as Database>::run(db, text).await?;
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
        }
    };
}

sql_on!(Postgres);
sql_on!(MySql);
sql_on!(Sqlite);

async fn is_refused<D: Database>(statements: &[&str])
where
    Sql: Tcc<D>,
{
    let (resource, pool) = D::open().await;
    D::run_outside(&pool, "CREATE TABLE t (n integer NOT NULL UNIQUE)".to_owned()).await;
    D::run_outside(&pool, "INSERT INTO t VALUES (1)".to_owned()).await;
    let service = Participant::new("p", resource).tcc("sql", Sql).service().unwrap();
    for sql in statements {
        let branch = super::direct::Branch {
            payload: bytes::Bytes::copy_from_slice(sql.as_bytes()),
            ..branch(Mode::Tcc, "sql")
        };
        let answer = branch.prepare(&service).await.unwrap();
        let prepare_response::Answer::Refused(refusal) = answer else {
            panic!("{sql}: {answer:?}")
        };
        assert!(!refusal.message.is_empty(), "{sql}: with its text");
        let again = branch.prepare(&service).await.unwrap();
        assert_eq!(again, prepare_response::Answer::Refused(refusal), "{sql}: stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_an_error_of_the_work_that_a_handler_passes_on_is_a_no() {
    let common = ["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (NULL)"];
    is_refused::<Postgres>(&[common[0], common[1], "INSERT INTO t VALUES (1 / 0)"]).await;
    is_refused::<MySql>(&[common[0], common[1], "INSERT INTO t VALUES ('x')"]).await;
    is_refused::<Sqlite>(&common).await;
}

/// A text of 90,000 characters would end the connection, and every other call on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_long_error_ends_its_own_call_only() {
    let (resource, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", resource).tcc("sql", Sql).service().unwrap();
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
