//! Participant `slow` as a process of its own: `postgres|mariadb|sqlite DATABASE`. Its step `work` leaves a
//! row in `effect`, and with the payload `hang` it then never comes to its end.

use bytes::Bytes;
use unanimo_sdk::{
    Call, MySql, Participant, PhaseTwoError, Postgres, PrepareError, Resource, Saga, Serve, Sqlite,
};
use unanimo_tests::joining::say;

struct Slow;

macro_rules! slow_on {
    ($resource:ty, $connection:ty) => {
        impl Saga<$resource> for Slow {
            type Payload = Bytes;
            type Output = ();

            async fn run(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
            ) -> Result<(), PrepareError> {
                sqlx::raw_sql("INSERT INTO effect VALUES (1)").execute(db).await?;
                if *call.payload == *b"hang" {
                    say("at work");
                    std::future::pending::<()>().await;
                }
                Ok(())
            }

            async fn compensate(
                &self,
                db: &mut $connection,
                _: &Call<Bytes>,
                (): (),
            ) -> Result<(), PhaseTwoError> {
                sqlx::raw_sql("INSERT INTO effect VALUES (-1)").execute(db).await?;
                Ok(())
            }
        }
    };
}

slow_on!(MySql, sqlx::MySqlConnection);
slow_on!(Postgres, sqlx::PgConnection);
slow_on!(Sqlite, sqlx::SqliteConnection);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, database] = arguments.as_slice() else { return Err("KIND DATABASE".into()) };
    match kind.as_str() {
        "postgres" => serve(Postgres::connect(database).await?).await,
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
    let serving = participant.serve(Serve::on("127.0.0.1:0").without_sweep()).await?;
    say(&format!("grpc http://{}", serving.address()));
    serving.until_stopped().await?;
    Ok(())
}
