//! Actions whose handlers are closures.

mod in_the_making;

pub use self::in_the_making::{ConfirmedFn, SagaFn, TccFn};
use super::Participant;
use crate::action::{First, Registered};
use crate::handler::{Argument, BoxError, HandlerFn, Handles, PrepareError};
use crate::payload::{Decode, Encode};
use crate::resource::Resource;

/// Handlers that are closures, for the simple case.
///
/// A closure gets the connection inside the branch's local transaction, and the call's payload, or all of the
/// [`Call`](crate::Call): see [`Argument`]. All closures of an action take the same one. A closure answers as the
/// methods of the traits do: a vote no is [`refuse`](crate::refuse), an error that may pass is `?` or
/// [`fail`](crate::fail), and "not yet" is [`working`](crate::working). An `async fn` does as well. What
/// [`Tcc`](crate::Tcc) says a handler never does holds for closures, too.
///
/// Captured values, such as a client of another service, are moved into the closure (`async move |db, …|`) and cloned
/// for each call: the closure is `Clone`, `Send` and `Sync`. Another isolation than READ COMMITTED, payloads that are
/// borrowed, and work outside of the database are for the traits.
///
/// ```
/// # #[cfg(feature = "sqlite")] mod example {
/// use serde::Deserialize;
/// use unanimo_sdk::{Json, Participant, Sqlite, fail, refuse};
///
/// #[derive(Deserialize)]
/// struct Order {
///     item: String,
///     pieces: i64,
/// }
///
/// fn shop(database: Sqlite) -> Participant<Sqlite> {
///     Participant::new("shop", database)
///         .tcc_fn("reserve", async |db, Json(order): Json<Order>| {
///             let take = "UPDATE stock SET free = free - $2, reserved = reserved + $2
///                         WHERE item = $1 AND free >= $2 AND $2 > 0";
///             let taken = sqlx::query(take).bind(&order.item).bind(order.pieces);
///             match taken.execute(db).await?.rows_affected() {
///                 0 => refuse("SOLD_OUT", format!("too few {} left", order.item)),
///                 _ => Ok(()),
///             }
///         })
///         .confirm(async |db, Json(order)| {
///             let sell = "UPDATE stock SET reserved = reserved - $2
///                         WHERE item = $1 AND reserved >= $2";
///             let sold = sqlx::query(sell).bind(order.item).bind(order.pieces).execute(db).await?;
///             if sold.rows_affected() == 1 { Ok(()) } else { fail("the item is gone") }
///         })
///         .cancel(async |db, Json(order)| {
///             let back = "UPDATE stock SET reserved = reserved - $2, free = free + $2
///                         WHERE item = $1 AND reserved >= $2";
///             let done = sqlx::query(back).bind(order.item).bind(order.pieces).execute(db).await?;
///             if done.rows_affected() == 1 { Ok(()) } else { fail("the item is gone") }
///         })
/// }
/// # }
/// ```
impl<R: Resource> Participant<R> {
    /// Sets up the service's own tables, as [`set_up`](Self::set_up) does, by an async closure.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # fn example(database: unanimo_sdk::Sqlite) -> unanimo_sdk::Participant<unanimo_sdk::Sqlite> {
    /// use unanimo_sdk::Participant;
    ///
    /// Participant::new("shop", database).set_up_fn(async |db| {
    ///     let table = "CREATE TABLE IF NOT EXISTS stock (item text PRIMARY KEY, free integer)";
    ///     sqlx::query(table).execute(db).await?;
    ///     Ok(())
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn set_up_fn<F>(self, set_up: F) -> Self
    where
        F: AsyncFnOnce(&mut R::Connection) -> Result<(), BoxError>
            + for<'c> Handles<'c, (&'c mut R::Connection,), Result<(), BoxError>>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.set_up(move |db| set_up.clone().handle((db,)))
    }

    /// Offers a TCC action by closures. `try_` is that of [`Tcc`](crate::Tcc); the others follow:
    /// `.confirm(…).cancel(…)`. Where `try_` returns an output ([`Json`](crate::Json), [`Prost`](crate::Prost),
    /// [`Payload`](crate::Payload) or [`Bytes`](bytes::Bytes)),
    /// both get it as their third argument.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] mod example {
    /// use unanimo_sdk::{Json, Participant, Sqlite, fail};
    ///
    /// fn seats(database: Sqlite) -> Participant<Sqlite> {
    ///     Participant::new("seats", database)
    ///         .tcc_fn("hold", async |db, Json(seat): Json<String>| {
    ///             let hold = sqlx::query_scalar("INSERT INTO held (seat) VALUES ($1) RETURNING number");
    ///             let number: i64 = hold.bind(seat).fetch_one(db).await?;
    ///             Ok(Json(number))
    ///         })
    ///         .confirm(async |db, _, Json(number)| {
    ///             let sell = "UPDATE held SET sold = true WHERE number = $1";
    ///             let sold = sqlx::query(sell).bind(number).execute(db).await?;
    ///             if sold.rows_affected() == 1 { Ok(()) } else { fail("the seat is not held") }
    ///         })
    ///         .cancel(async |db, _, Json(number)| {
    ///             let free = "DELETE FROM held WHERE number = $1";
    ///             let freed = sqlx::query(free).bind(number).execute(db).await?;
    ///             if freed.rows_affected() == 1 { Ok(()) } else { fail("the seat is not held") }
    ///         })
    /// }
    /// # }
    /// ```
    pub fn tcc_fn<A, O, F>(self, action: impl Into<String>, try_: F) -> TccFn<R, A, O>
    where
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
        F: HandlerFn<R::Connection, A, Result<O, PrepareError>>,
    {
        TccFn { participant: self, action: action.into(), try_: first(try_) }
    }

    /// Offers an action as a step of sagas by closures: `run` is that of [`Saga`](crate::Saga), and
    /// `.compensate(…)` follows. Where `run` returns an output, that one gets it as its third argument.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] mod example {
    /// use unanimo_sdk::{Call, Json, Participant, Sqlite, fail};
    ///
    /// fn airline(database: Sqlite) -> Participant<Sqlite> {
    ///     Participant::new("airline", database)
    ///         .saga_fn("book", async |db, call: Call<Json<String>>| {
    ///             let Json(class): Json<String> = call.input("class")?;
    ///             let book = "INSERT INTO booking (seat, class) VALUES ($1, $2) RETURNING number";
    ///             let book = sqlx::query_scalar(book).bind(&*call.payload).bind(class);
    ///             let number: i64 = book.fetch_one(db).await?;
    ///             Ok(Json(number))
    ///         })
    ///         .compensate(async |db, _, Json(number)| {
    ///             let cancel = "DELETE FROM booking WHERE number = $1";
    ///             let cancelled = sqlx::query(cancel).bind(number).execute(db).await?;
    ///             if cancelled.rows_affected() == 1 { Ok(()) } else { fail("the booking is gone") }
    ///         })
    /// }
    /// # }
    /// ```
    pub fn saga_fn<A, O, F>(self, action: impl Into<String>, run: F) -> SagaFn<R, A, O>
    where
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
        F: HandlerFn<R::Connection, A, Result<O, PrepareError>>,
    {
        SagaFn { participant: self, action: action.into(), run: first(run) }
    }

    /// Offers an action as a step of sagas that nothing makes up for, by a closure: see
    /// [`Uncompensated`](crate::Uncompensated).
    #[must_use]
    pub fn uncompensated_fn<A, O, F>(self, action: impl Into<String>, run: F) -> Self
    where
        A: Argument,
        O: Encode + Decode + Send + Sync + 'static,
        F: HandlerFn<R::Connection, A, Result<O, PrepareError>>,
    {
        self.with(action.into(), Registered::uncompensated_fn(first(run)))
    }
}

fn first<C, A, O>(closure: impl HandlerFn<C, A, Result<O, PrepareError>>) -> First<C, A, O> {
    Box::new(move |db, argument| Handles::handle(closure.clone(), (db, argument)))
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<R: crate::TwoPhaseResource> Participant<R> {
    /// Offers an action of two-phase commit by a closure: see [`TwoPhase`](crate::TwoPhase).
    ///
    /// ```
    /// # #[cfg(feature = "postgres")] mod example {
    /// use serde::Deserialize;
    /// use unanimo_sdk::{Json, Participant, Postgres, refuse};
    ///
    /// #[derive(Deserialize)]
    /// struct Debit {
    ///     account: String,
    ///     cents: i64,
    /// }
    ///
    /// fn bank(database: Postgres) -> Participant<Postgres> {
    ///     Participant::new("bank", database).two_phase_fn("debit", async |db, Json(debit): Json<Debit>| {
    ///         let take = "UPDATE account SET cents = cents - $2
    ///                     WHERE id = $1 AND cents >= $2 AND $2 > 0";
    ///         let taken = sqlx::query(take).bind(&debit.account).bind(debit.cents).execute(db).await?;
    ///         match taken.rows_affected() {
    ///             0 => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", debit.account)),
    ///             _ => Ok(()),
    ///         }
    ///     })
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn two_phase_fn<A, F>(self, action: impl Into<String>, prepare: F) -> Self
    where
        A: Argument,
        F: HandlerFn<R::Connection, A, Result<(), PrepareError>>,
    {
        self.with_two_phase(action.into(), Registered::two_phase_fn(first(prepare)))
    }

    /// Offers an action of two-phase commit that only reads, by a closure: it votes READ_ONLY. See
    /// [`TwoPhase::read_only`](crate::TwoPhase::read_only).
    #[must_use]
    pub fn read_only_fn<A, F>(self, action: impl Into<String>, read: F) -> Self
    where
        A: Argument,
        F: HandlerFn<R::Connection, A, Result<(), PrepareError>>,
    {
        self.with_two_phase(action.into(), Registered::read_only_fn(first(read)))
    }
}
