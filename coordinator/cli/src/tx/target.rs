//! Argument that names a transaction: its `tx_id` or its `gid`.

use unanimo_core::TxId;
use unanimo_proto::v1::{self, get_transaction_request, watch_transaction_request};

use super::client::{Client, Error};
use super::json::View;

/// Name of a transaction.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// tx_id or gid of the transaction. A name in the form of a tx_id is looked up as one first
    #[arg(value_name = "TX")]
    name: String,
    /// TX is a gid, also if it has the form of a tx_id
    #[arg(long)]
    gid: bool,
}

impl Target {
    /// Makes a target of a name, which may be said to be a gid.
    pub(super) fn new(name: String, gid: bool) -> Self {
        Self { name, gid }
    }

    /// Makes a target of a name: a `tx_id` if it has the form of one.
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), gid: false }
    }

    fn may_be_tx_id(&self) -> bool {
        !self.gid && TxId::parse(&self.name).is_ok()
    }

    /// Gets the transaction.
    pub(super) async fn get(
        &self,
        client: &mut Client,
        view: View,
    ) -> Result<v1::Transaction, Error> {
        self.find(client, view).await.map_err(|error| error.about(&self.name))
    }

    async fn find(&self, client: &mut Client, view: View) -> Result<v1::Transaction, Error> {
        let by_gid = get_transaction_request::Key::Gid(self.name.clone());
        if !self.may_be_tx_id() {
            return get(client, by_gid, view).await;
        }
        match get(client, get_transaction_request::Key::TxId(self.name.clone()), view).await {
            // The first answer is kept, as it may say more: that the transaction was purged.
            Err(error) if error.is_not_found() => {
                get(client, by_gid, view).await.map_err(|second| match second.is_not_found() {
                    true => error,
                    false => second,
                })
            }
            found => found,
        }
    }

    /// Gets its `tx_id`, by which an operator's calls name it.
    pub(super) async fn tx_id(&self, client: &mut Client) -> Result<String, Error> {
        Ok(self.get(client, View::Basic).await?.tx_id)
    }

    /// Gets its `tx_id` as the key of a watch.
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
    response.transaction.ok_or(Error::Nonsense("it has no transaction"))
}
