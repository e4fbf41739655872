//! Participant of sagas as a process of its own: `NAME DATABASE COORDINATOR ENDPOINT`. It keeps a record of
//! each effect in its own database, and kills itself at the crash point that the environment names.
//!
//! A payload is `VOTE WORK_MS INPUT…`: the vote is `yes`, `no`, or `hang`, which is a yes whose first
//! attempt takes longer than its caller waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sqlx::AssertSqlSafe;
use unanimo_sdk::{
    Call, Participant, PhaseTwoError, Postgres, PrepareError, Resource, Saga, Serve, Sqlite, Sweep,
    Tcc, TwoPhase, Uncompensated, refuse,
};
use unanimo_tests::joining::say;

/// Time that the first attempt of a step hangs: longer than one attempt is waited for.
const HANG: Duration = Duration::from_millis(400);

/// Effect that is about to be recorded.
struct Effect {
    began_us: i64,
    inputs: String,
}

impl Effect {
    /// Does what the payload asks for.
    async fn of(call: &Call<Bytes>, first: bool) -> Result<Self, PrepareError> {
        let began_us = now_us();
        let text = String::from_utf8_lossy(&call.payload).into_owned();
        let mut words = text.split(' ');
        let (vote, work) = (words.next(), words.next().and_then(|ms| ms.parse().ok()));
        let mut inputs = Vec::new();
        for name in words {
            let input: Bytes = call.input(name)?;
            inputs.push(format!("{name}={}", String::from_utf8_lossy(&input)));
        }
        if first {
            match vote {
                Some("no") => return refuse("PLANNED", "the payload asks for it"),
                Some("hang") if call.attempt == 1 => tokio::time::sleep(HANG).await,
                _ => tokio::time::sleep(Duration::from_millis(work.unwrap_or_default())).await,
            }
        }
        Ok(Self { began_us, inputs: inputs.join(" ") })
    }

    /// Statement that records it. The texts hold no quotes.
    fn record(&self, call: &Call<Bytes>, what: &str, output: &str) -> AssertSqlSafe<String> {
        let Self { began_us, inputs } = self;
        let (gid, step, ended_us) = (&call.branch.gid, &call.branch.branch_id, now_us());
        AssertSqlSafe(format!(
            "INSERT INTO effect (gid, step, what, began_us, ended_us, inputs, output)
             VALUES ('{gid}', '{step}', '{what}', {began_us}, {ended_us}, '{inputs}', '{output}')"
        ))
    }
}

/// The wall clock, which all processes of the test share.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

macro_rules! work_on {
    ($resource:ty, $connection:ty) => {
        impl Work {
            /// Does the work of phase one. The output differs each time that it runs.
            async fn first(
                db: &mut $connection,
                call: &Call<Bytes>,
            ) -> Result<Bytes, PrepareError> {
                let effect = Effect::of(call, true).await?;
                let process = std::process::id();
                let output = format!("{}:{process}:{}", call.branch.branch_id, now_us());
                sqlx::raw_sql(effect.record(call, "did", &output)).execute(db).await?;
                Ok(output.into())
            }

            async fn second(
                db: &mut $connection,
                call: &Call<Bytes>,
                what: &str,
                output: &Bytes,
            ) -> Result<(), PhaseTwoError> {
                let effect = match Effect::of(call, false).await {
                    Ok(effect) => effect,
                    Err(PrepareError::Failed(error)) => return Err(PhaseTwoError::Failed(error)),
                    Err(error) => return Err(PhaseTwoError::Failed(format!("{error:?}").into())),
                };
                let output = String::from_utf8_lossy(output);
                sqlx::raw_sql(effect.record(call, what, &output)).execute(db).await?;
                Ok(())
            }
        }

        impl Saga<$resource> for Work {
            type Payload = Bytes;
            type Output = Bytes;

            async fn run(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
            ) -> Result<Bytes, PrepareError> {
                Self::first(db, call).await
            }

            async fn compensate(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
                output: Bytes,
            ) -> Result<(), PhaseTwoError> {
                Self::second(db, call, "undid", &output).await
            }
        }

        impl Uncompensated<$resource> for Work {
            type Payload = Bytes;
            type Output = Bytes;

            async fn run(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
            ) -> Result<Bytes, PrepareError> {
                Self::first(db, call).await
            }
        }

        impl Tcc<$resource> for Work {
            type Payload = Bytes;
            type Output = Bytes;

            async fn try_(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
            ) -> Result<Bytes, PrepareError> {
                Self::first(db, call).await
            }

            async fn confirm(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
                output: Bytes,
            ) -> Result<(), PhaseTwoError> {
                Self::second(db, call, "confirmed", &output).await
            }

            async fn cancel(
                &self,
                db: &mut $connection,
                call: &Call<Bytes>,
                output: Bytes,
            ) -> Result<(), PhaseTwoError> {
                Self::second(db, call, "undid", &output).await
            }
        }
    };
}

mod on_postgres {
    use super::*;

    #[derive(Clone, Copy)]
    pub(super) struct Work;
    work_on!(Postgres, sqlx::PgConnection);

    impl TwoPhase<Postgres> for Work {
        type Payload = Bytes;

        async fn prepare(
            &self,
            db: &mut sqlx::PgConnection,
            call: &Call<Bytes>,
        ) -> Result<(), PrepareError> {
            let effect = Effect::of(call, true).await?;
            // There is no output.
            sqlx::raw_sql(effect.record(call, "did", "")).execute(db).await?;
            Ok(())
        }
    }
}

mod on_sqlite {
    use super::*;

    #[derive(Clone, Copy)]
    pub(super) struct Work;
    work_on!(Sqlite, sqlx::SqliteConnection);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    unanimo_tests::crash::arm();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, database, coordinator, endpoint] = arguments.as_slice() else {
        return Err("NAME DATABASE COORDINATOR ENDPOINT".into());
    };
    // In doubt is asked about soon: saga steps are told nothing of a COMMIT.
    let sweep =
        Sweep::default().interval(Duration::from_millis(300)).grace(Duration::from_millis(500));
    let serve =
        Serve::on("127.0.0.1:0").register_with(coordinator).advertise(endpoint).sweep(sweep);
    if database.starts_with("postgres") {
        let work = on_postgres::Work;
        let participant = Participant::new(name, Postgres::connect(database).await?);
        let participant = participant.two_phase("write", work);
        run(participant.saga("do", work).uncompensated("last", work).tcc("hold", work), serve).await
    } else {
        let work = on_sqlite::Work;
        let participant = Participant::new(name, Sqlite::open(database).await?);
        run(participant.saga("do", work).uncompensated("last", work).tcc("hold", work), serve).await
    }
}

async fn run<R: Resource>(
    participant: Participant<R>,
    serve: Serve,
) -> Result<(), Box<dyn std::error::Error>> {
    let serving = participant.serve(serve).await?;
    say(&format!("grpc http://{}", serving.address()));
    serving.until_stopped().await?;
    Ok(())
}
