//! Bank whose service joins its callers' transactions, in a process that a test kills:
//! `joining-bank NAME DATABASE_URL COORDINATOR`. It prints `http http://HOST:PORT`, and `preparing`
//! or `joined` where it waits for ever.

use sqlx::SqliteConnection;
use tokio::runtime::Runtime;
use unanimo_examples::Posting;
use unanimo_sdk::{Call, Client, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc};
use unanimo_tests::joining::{Bank, say};

/// Action that holds money; for the account `stall` its handler waits for ever.
struct Hold;

const UNDO: &str = "UPDATE account SET cents = cents + $2, held = held - $2 WHERE id = $1";

impl Tcc<Sqlite> for Hold {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        let hold = "UPDATE account SET cents = cents - $2, held = held + $2 WHERE id = $1";
        post(db, hold, call).await?;
        if call.payload.account == "stall" {
            say("preparing");
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(post(db, "UPDATE account SET held = held - $2 WHERE id = $1", call).await?)
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(post(db, UNDO, call).await?)
    }
}

async fn post(
    db: &mut SqliteConnection,
    statement: &'static str,
    call: &Call<Json<Posting>>,
) -> sqlx::Result<()> {
    let Posting { account, cents } = &*call.payload;
    sqlx::query(statement).bind(account).bind(cents).execute(db).await?;
    Ok(())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("NAME FILE COORDINATOR");
    let (name, file, coordinator) = (next(), next(), next());
    Runtime::new().expect("a runtime").block_on(async {
        let database = Sqlite::open(&file).await.expect("a database");
        let client = Client::new(&coordinator).expect("a coordinator");
        let participant = Participant::new(name, database).tcc("hold", Hold);
        let mut bank = Bank::open(participant, &client, &coordinator).await;
        bank.serving.registered().await.expect("a registration");
        say(&format!("http {}", bank.http));
        std::future::pending::<()>().await;
    });
}
