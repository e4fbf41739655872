//! Sessions on which a handler would fail again and again: they are closed.

use sqlx::{Connection, Executor, PgConnection};
use unanimo_proto::v1::{Mode, commit_response};
use unanimo_sdk::{Call, Participant, PhaseTwoError, PostgresOptions, PrepareError, Tcc};
use unanimo_tests::postgres::Server;

use super::direct::{Branch, branch};
use super::over::{self, Database};

/// Statement that each Commit prepares for as long as its connection lives.
const LOOK: &str = "SELECT * FROM account";

/// Looks at accounts, or prepares a statement in SQL, as its payload says.
struct Looks;

impl Tcc<Database> for Looks {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut over::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn confirm(
        &self,
        db: &mut over::Connection,
        call: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        match &*call.payload {
            b"look" => over::cached(db, LOOK).await?,
            _ => over::run(db, "PREPARE mine AS SELECT 1").await?,
        }
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut over::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// L1: what a session has prepared fits its table no longer after an ALTER TABLE, or is there already. The next
/// session is a new one.
#[tokio::test]
async fn l1_a_session_with_statements_that_do_not_fit_is_not_used_again() {
    let url = Server::shared().database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin.execute("CREATE TABLE account (cents integer)").await.unwrap();
    let narrow = PostgresOptions::default().prepare_connections(1).phase_two_connections(1);
    let database = over::connect(narrow, &url).await.unwrap();
    let service = Participant::new("p", database).tcc("looks", Looks).service().unwrap();
    let of =
        |payload: &'static str| Branch { payload: payload.into(), ..branch(Mode::Tcc, "looks") };
    for (payload, change) in
        [("look", "ALTER TABLE account ADD COLUMN note text"), ("prepare", "SELECT 1")]
    {
        let branches = [(); 3].map(|()| of(payload));
        for branch in &branches {
            branch.prepare(&service).await.unwrap();
        }
        for (index, branch) in branches.iter().enumerate() {
            if index == 1 {
                admin.execute(change).await.unwrap();
            }
            let mut answers = Vec::new();
            for _ in 0..2 {
                answers.push(branch.commit(&service).await);
            }
            let last = answers.last().unwrap();
            assert!(matches!(last, Ok(commit_response::Answer::Done(_))), "{payload}: {answers:?}");
        }
    }
}
