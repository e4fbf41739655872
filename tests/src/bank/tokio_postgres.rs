//! Accounts in the table of the examples, by connections of `tokio-postgres`.

use tokio_postgres::Error;
use unanimo_sdk::TokioConnection;

use super::{Accounts, Change};

impl Accounts for TokioConnection {
    type Error = Error;

    async fn post(&mut self, account: &str, [cents, held, incoming]: Change) -> Result<u64, Error> {
        let post = self.prepare_cached(
            "UPDATE account SET cents = cents + $1, held = held + $2, incoming = incoming + $3
             WHERE id = $4 AND cents + $1 >= 0",
        );
        self.execute(&post.await?, &[&cents, &held, &incoming, &account]).await
    }
}
