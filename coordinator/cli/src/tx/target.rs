//! Which transaction is meant: by the coordinator's name for it, or by the client's.

use unanimo_core::TxId;
use unanimo_proto::v1::{self, get_transaction_request, watch_transaction_request};

use super::client::{Client, Error};
use super::json::View;

/// A transaction by one of its names.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The transaction's tx_id or gid. What looks like a tx_id is tried as one first
    #[arg(value_name = "TX")]
    name: String,
    /// TX is a gid, whatever it looks like
    #[arg(long)]
    gid: bool,
}

impl Target {
    fn may_be_tx_id(&self) -> bool {
        !self.gid && TxId::parse(&self.name).is_ok()
    }

    /// The transaction.
    pub(super) async fn get(
        &self,
        client: &mut Client,
        view: View,
    ) -> Result<v1::Transaction, Error> {
        let by_gid = get_transaction_request::Key::Gid(self.name.clone());
        if !self.may_be_tx_id() {
            return get(client, by_gid, view).await;
        }
        match get(client, get_transaction_request::Key::TxId(self.name.clone()), view).await {
            // The first answer tells more: it may be that it was purged.
            Err(error) if error.is_not_found() => {
                get(client, by_gid, view).await.map_err(|second| match second.is_not_found() {
                    true => error,
                    false => second,
                })
            }
            found => found,
        }
    }

    /// Its `tx_id`, which is all that acts on it take.
    pub(super) async fn tx_id(&self, client: &mut Client) -> Result<String, Error> {
        Ok(self.get(client, View::Basic).await?.tx_id)
    }

    /// Its `tx_id`, to be watched by.
    pub(super) async fn watch_key(
        &self,
        client: &mut Client,
    ) -> Result<watch_transaction_request::Key, Error> {
        Ok(watch_transaction_request::Key::TxId(self.tx_id(client).await?))
    }
}

async fn get(
    client: &mut Client,
    key: get_transaction_request::Key,
    view: View,
) -> Result<v1::Transaction, Error> {
    let request = client.request(v1::GetTransactionRequest {
        key: Some(key),
        include_outputs: true,
        include_payloads: view == View::Full,
        include_timeline: view == View::Full,
        ..Default::default()
    });
    let response = client.coordinator.get_transaction(request).await?.into_inner();
    response.transaction.ok_or(Error::Nonsense("a transaction was asked for, none came"))
}
