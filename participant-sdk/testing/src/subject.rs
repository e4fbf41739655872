//! The subject of the tests: a participant on data of its own.

use unanimo_sdk::{BoxError, Participant, Resource};

/// A participant to test, and the data that it works on.
///
/// The harness makes many of them, each with data that nobody else has: two databases can be
/// compared only if both began alike.
pub trait Subject: Sized + Send + Sync + 'static {
    /// The participant's database.
    type Resource: Resource;

    /// A fresh database with its tables and initial data, the same each time. There must be enough
    /// for twenty transactions.
    ///
    /// # Errors
    /// It cannot be made.
    fn fresh() -> impl Future<Output = Result<Self, BoxError>> + Send;

    /// The participant on this database. It is made again after each simulated crash, as your
    /// program makes it at its start; connections that it opens are its own.
    ///
    /// # Errors
    /// It cannot be made.
    fn participant(
        &self,
    ) -> impl Future<Output = Result<Participant<Self::Resource>, BoxError>> + Send;

    /// The data that handlers read and write, as a text: the same for the same data, and without
    /// what differs from run to run, such as times and ids of transactions. Two of these are
    /// compared, and shown where they differ.
    ///
    /// An empty text (what you get by leaving it out) means that there is nothing to compare: only
    /// the participant's answers are checked.
    ///
    /// # Errors
    /// The data cannot be read.
    fn observe(&self) -> impl Future<Output = Result<String, BoxError>> + Send {
        std::future::ready(Ok(String::new()))
    }
}
