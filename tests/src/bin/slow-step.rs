//! Participant `slow` as a process of its own: `postgres|tokio|mariadb|sqlite DATABASE`. Its step `work` leaves a
//! row in `effect`, and with the payload `hang` it then never comes to its end. With `commits` it ends the local
//! transaction by itself before that; with `commits later` its compensation does. Its step `elsewhere` works in the
//! folder that the payload names, which stands for another service.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use unanimo_sdk::{
    Call, Json, MySql, Participant, PhaseTwoError, Postgres, PrepareError, Resource, Saga,
    SagaOutside, Serve, Sqlite, TokioConnection, TokioPostgres,
};
use unanimo_tests::joining::say;

struct Slow;

/// Runs it, and leaves the error to the caller: SQLite refuses a handler's COMMIT.
macro_rules! run_here {
    ($run:expr) => {
        async {
            $run;
            Ok(())
        }
        .await
    };
}

macro_rules! slow_on {
    ($resource:ty, $connection:ty, |$db:ident, $sql:ident| $run:expr) => {
        impl Saga<$resource> for Slow {
            type Payload = Bytes;
            type Output = ();

            async fn run(
                &self,
                $db: &mut $connection,
                call: &Call<Bytes>,
            ) -> Result<(), PrepareError> {
                let $sql = "INSERT INTO effect VALUES (1)";
                $run;
                if *call.payload == *b"commits" {
                    let $sql = "COMMIT";
                    let _: Result<(), PrepareError> = run_here!($run);
                }
                if [&b"hang"[..], b"commits"].contains(&&*call.payload) {
                    say("at work");
                    std::future::pending::<()>().await;
                }
                Ok(())
            }

            async fn compensate(
                &self,
                $db: &mut $connection,
                call: &Call<Bytes>,
                (): (),
            ) -> Result<(), PhaseTwoError> {
                let $sql = "INSERT INTO effect VALUES (-1)";
                $run;
                if *call.payload == *b"commits later" {
                    let $sql = "COMMIT";
                    let _: Result<(), PhaseTwoError> = run_here!($run);
                    say("at work");
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
    };
}

slow_on!(MySql, sqlx::MySqlConnection, |db, sql| sqlx::raw_sql(sql).execute(&mut *db).await?);
slow_on!(Postgres, sqlx::PgConnection, |db, sql| sqlx::raw_sql(sql).execute(&mut *db).await?);
slow_on!(Postgres<TokioPostgres>, TokioConnection, |db, sql| db.batch_execute(sql).await?);
slow_on!(Sqlite, sqlx::SqliteConnection, |db, sql| sqlx::raw_sql(sql).execute(&mut *db).await?);

/// Holds a file, or releases it. While there is a file `hang`, neither comes to its end.
struct Elsewhere;

impl<R: Resource> SagaOutside<R> for Elsewhere {
    type Payload = Json<PathBuf>;
    type Output = ();

    async fn run(
        &self,
        _: &mut R::Connection,
        call: &Call<Json<PathBuf>>,
    ) -> Result<(), PrepareError> {
        fs::write(call.payload.join("held"), "")?;
        may_hang(&call.payload).await;
        Ok(())
    }

    async fn compensate(
        &self,
        _: &mut R::Connection,
        call: &Call<Json<PathBuf>>,
        output: Option<()>,
    ) -> Result<(), PhaseTwoError> {
        if fs::exists(call.payload.join("held"))? {
            fs::remove_file(call.payload.join("held"))?;
        }
        let log = call.payload.join("releases");
        let releases = fs::read_to_string(&log).unwrap_or_default();
        fs::write(log, format!("{releases}{output:?}\n"))?;
        may_hang(&call.payload).await;
        Ok(())
    }
}

async fn may_hang(folder: &Path) {
    if fs::exists(folder.join("hang")).unwrap_or_default() {
        say("at work");
        std::future::pending::<()>().await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, database] = arguments.as_slice() else { return Err("KIND DATABASE".into()) };
    match kind.as_str() {
        "postgres" => serve(Postgres::connect(database).await?).await,
        "tokio" => serve(Postgres::over(TokioPostgres::new(database.parse()?)).await?).await,
        "mariadb" => serve(MySql::connect(database).await?).await,
        "sqlite" => serve(Sqlite::open(database).await?).await,
        other => Err(format!("there is no database {other}").into()),
    }
}

async fn serve<R: Resource>(resource: R) -> Result<(), Box<dyn std::error::Error>>
where
    Slow: Saga<R>,
{
    let participant = Participant::new("slow", resource).saga("work", Slow);
    let participant = participant.saga_outside("elsewhere", Elsewhere);
    let serving = participant.serve(Serve::on("127.0.0.1:0").without_sweep()).await?;
    say(&format!("grpc http://{}", serving.address()));
    serving.until_stopped().await?;
    Ok(())
}
