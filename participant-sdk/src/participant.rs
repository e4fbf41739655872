//! A participant: its actions, and the service that the coordinator calls.
//!
//! # In doubt
//!
//! A branch that voted yes is *in doubt* until its participant hears the decision. Normally the
//! coordinator tells it within milliseconds, and repeats that until it is answered. What it cannot
//! tell any more, after a failover of a database, a restore, or an operator's word, the *sweeper*
//! finds. [`Participant::serve`] starts one for the coordinators of [`Serve::register_with`];
//! [`Service::sweep`] does it for a service in a server of one's own. At each [interval](Sweep) it
//!
//! 1. lists what this participant has prepared for longer than a grace: prepared transactions of
//!    PostgreSQL named `u/<cluster>/<participant>/<tx_id>/<branch number>`, and rows of
//!    `unanimo_barrier` in state `prepared`. Whatever belongs to another participant, or was not
//!    named by this crate, is not looked at.
//! 2. asks the coordinators about them (`InquireBranches`), each about its own group's branches only.
//! 3. acts on a decision, COMMIT or ABORT, and on nothing else: a prepared transaction is ended as by
//!    the coordinator's own call; for a row the question makes the coordinator send its Commit or
//!    Cancel again, which carries the payload that the handler needs. A transaction that is running
//!    is left alone.
//!
//! What only a person can end is touched by nobody. It raises an alarm: a log line of level ERROR
//! with a field `alarm`, once two sweeps in a row have found it, and again every hour:
//!
//! | `alarm` | the branch is in doubt, and | what to do |
//! | --- | --- | --- |
//! | `in_doubt_unknown` | the coordinator never saw it, or has purged its transaction: one of the two databases was restored from a backup. Of a saga's step also: nobody here asked about it for longer than the coordinator's retention | end it as the other branches of its transaction ended |
//! | `in_doubt_ended` | the coordinator was told that it had ended: an operator resolved it, or this database was restored | the same; it follows the decision, unless it was resolved otherwise |
//! | `in_doubt_refused` | the database does not end it as it was decided; a line of level WARN before gives the reason | mend that, such as a role that may not |
//! | `in_doubt_unanswered` | no coordinator has answered for it for [too long](Sweep::alarm_after) | see whether their addresses are right, and whether they run |
//! | `in_doubt_not_decided` | its transaction is not decided, long after its deadline | see `unanimo tx show`: a parent transaction that waits, or a coordinator whose clock stands |
//! | `in_doubt_not_ended` | it was decided long ago, and its Commit or Cancel does not arrive or is not done; a step's Cancel is its compensation | see the coordinator's last error for it |
//! | `in_doubt_other_name` | it bears another participant's name, or is a step whose row nobody has changed for three hours, not even a sweeper that asks about it | see why that one's sweeper does not run; if this participant was renamed, and no process bears that name any more, name it with [`Participant::formerly`] |
//! | `in_doubt_unreadable` | its row has a `tx_id` that is none (SQLite, MariaDB) | repair or delete what somebody wrote by hand |
//! | `participant_other_database` | the participant's living processes have another database | stop the process that is wrong |
//! | `in_doubt_other_cluster` | none of the coordinators is of its transaction's group | register with one that is, too, or end it by hand |
//!
//! On PostgreSQL the sweeper notices that the database has another history than before, because a standby was
//! promoted or a backup restored (`database_promoted`). It then compares with the coordinators what is left, and
//! raises `branch_lost` for each branch that was committed and is not there any more; `losses_not_known` where a
//! coordinator does not tell. On MariaDB and MySQL the server's own id tells it, and a note beside the barrier. SQLite
//! knows no such thing: there a branch that had ended is not missed.
//!
//! Ended by hand means `COMMIT PREPARED '…'` or `ROLLBACK PREPARED '…'`; for a row, doing what the
//! handler would have done and setting its state in the same local transaction.
//!
//! Other alarms come from operations, or from the look at what is open at the start: `handler_lost_transaction`
//! (a handler ended its local transaction by itself), `operation_overtime` (an operation was ended past its
//! [bound](Participant::overtime), or does not return to be ended), `sweep_panicked` (a part of a sweep has panicked), `set_up_lasts` (the set-up has not ended for minutes),
//! `prepared_name_lost` (MariaDB keeps a prepared transaction and has lost its
//! name, until it is restarted), `open_action_gone`, `open_output_unreadable` and `open_payload_unreadable` (this
//! version cannot finish what an earlier one has prepared).
//!
//! [`Serving::in_doubt`] returns how many are in doubt, how old the oldest is, and how many have
//! raised an alarm: make a gauge of it. Each sweep that leaves one older than the grace also logs a
//! line of level WARN, `branches are in doubt`, with `in_doubt`, `oldest_s` and `alarmed`.
//!
//! # Lost transactions
//!
//! A handler that ends its local transaction by itself may have left something behind, and its branch is a hazard: its row
//! says so. If the database takes no record of that just then, it is kept in memory and tried again, nothing is done for the
//! branch by this process before, and a stop ([`Serving::stop`], [`Registration::stop`]) waits for it. What cannot be recorded by then
//! is told by the error of the stop and, branch by branch, by the alarm `handler_lost_transaction`. A process that is killed
//! before has told of it in the log alone: the next one does not know.
//!
//! # Steps of sagas
//!
//! A step is done by its yes, and nothing is sent to it if its saga commits. Its row stays `prepared`
//! until the sweeper hears that COMMIT is decided for it, and makes it `committed`. Until then it counts
//! as one of [`InDoubt::steps`], which are not in doubt. A saga may take days, so the pause before a step
//! is asked about again is half of what it has lived, at least the grace and at most an hour: the
//! coordinator's retention must be longer than that. A compensation is the coordinator's to send.
//!
//! # Retention
//!
//! Barrier rows are what makes a late or repeated message harmless, so they outlive every message.
//! The sweeper purges them in bounded batches, by the database's own clock:
//!
//! - rows in state `refused`, `read_only` and `cancelled` (tombstones, too) once their
//!   `prepare_until`, the transaction's deadline and an allowance for clocks, is [some
//!   time](Sweep::retention) ago. A Prepare that comes still later is refused because it is late; a
//!   Cancel that comes again is done; a Commit never comes to such a branch.
//! - rows in state `committed` when besides that the coordinator says that the transaction has ended,
//!   durably, or that it has purged it. It then never sends Commit again, not after a crash either,
//!   so that no Commit can miss the row and be taken for a loss.
//! - rows in state `committed` without `prepare_until`, as steps after a saga's pivot have: when they have
//!   been so for that time, and the coordinator says that the transaction has ended, the sweeper sets
//!   `prepare_until` to the present. From then on they are as the others.
//! - rows in state `prepared`, `lost` and `running`, and all others without `prepare_until`: never.
//!
//! [`Sweep::keep_rows`] switches that off. A coordinator's database that is restored from a backup
//! older than the retention may send a Commit whose row is gone: that is answered as a heuristic
//! hazard.

mod accept;
mod closures;
mod directory;
mod error;
mod groups;
mod incoming;
mod metrics;
mod register;
mod serve;
mod service;
mod set_up;
mod sweeper;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::time::Duration;

pub use self::accept::Accept;
use self::accept::Accepted;
pub use self::closures::{ConfirmedFn, SagaFn, TccFn};
pub use self::error::Error;
pub use self::metrics::{Metrics, Operations};
pub use self::register::{Register, Registration};
pub use self::serve::{Serve, Serving};
pub(crate) use self::service::Caller;
use self::service::Of;
pub use self::service::Service;
use self::set_up::SetUp;
pub use self::sweeper::{InDoubt, Sweep, Sweeper};
use crate::action::{Interrupt, Registered};
use crate::handler::{BoxError, Saga, SagaOutside, Tcc, TccOutside, Uncompensated};
use crate::names::{self, NAME_BYTES_MAX};
use crate::resource::Resource;

/// A participant in the making: a name, the database that holds its data, and its actions.
#[derive(Debug)]
pub struct Participant<R: Resource> {
    of: Of,
    resource: R,
    actions: HashMap<String, Registered<R::Connection>>,
    set_up: SetUp<R>,
    accept: Option<Accept>,
    error: Option<Error>,
}

/// Time past a call's deadline after which its operation is ended, if nothing else is said.
const OVERTIME: Duration = Duration::from_secs(60);

impl<R: Resource> Participant<R> {
    /// A participant of this name. All processes that serve one name share one database.
    pub fn new(name: impl Into<String>, resource: R) -> Self {
        let name = name.into();
        let of = Of {
            name: name.clone(),
            formerly: Vec::new(),
            overtime: OVERTIME,
            handler_timeout: None,
            output_bytes_max: None,
            accepted: Accepted::default(),
        };
        let (actions, set_up) = (HashMap::new(), SetUp::default());
        let mut made = Self { of, resource, actions, set_up, accept: None, error: None };
        made.check("participant", &name);
        made
    }

    /// Names it as it was named before. It registers under that name, too, so that Commits and Cancels of its
    /// branches arrive, and the sweeper looks after what is in doubt under it: without that nobody would, for
    /// each participant looks after its own. May be called again. The name must not be another service's by
    /// now: its registration, of another database, is refused while that one lives.
    #[must_use]
    pub fn formerly(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.check("participant", &name);
        self.of.formerly.push(name);
        self
    }

    /// Bounds an operation: that long past the deadline of its call it is ended, whatever it does. Its
    /// handler's future is dropped, and its connection is closed, so that the database rolls back. The call
    /// comes again. A handler that blocks its thread cannot be ended so. Default 60 s.
    #[must_use]
    pub fn overtime(mut self, overtime: Duration) -> Self {
        self.of.overtime = overtime;
        self
    }

    /// Bounds an operation whatever its call's deadline is: its handler, and the statements around it. As
    /// with [`overtime`](Self::overtime) it is then ended, nothing of it is kept, and the call comes again.
    /// It holds for Commits and Cancels, too, which come again until they are done: set it longer than any
    /// of them needs. Its end is a line of level WARN, and no alarm. Without it only that other bound holds.
    #[must_use]
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.of.handler_timeout = Some(timeout);
        self
    }

    /// Bounds the output of a handler. A larger one is the vote no, with the reason `OUTPUT_TOO_LARGE`. Without
    /// this an output has no bound here: one over the coordinator's `output-bytes-max` is dropped there, and one that
    /// fits no message is dropped here; the vote stands, without its output. Where the coordinator names a bound with
    /// the call, that one holds instead. Work that must succeed is not refused by this one.
    #[must_use]
    pub fn output_bytes_at_most(mut self, bytes: u64) -> Self {
        self.of.output_bytes_max = Some(bytes);
        self
    }

    /// Accepts calls of these alone: of its coordinators. Whoever can send Commit to a participant confirms payments, and
    /// without this everybody who reaches the port can; with [`ServerFiles::client_ca`](unanimo_tls::ServerFiles::client_ca)
    /// everybody with a certificate of that authority. Others get `PERMISSION_DENIED`, or `UNAUTHENTICATED` if they have
    /// no token, or none that is known.
    ///
    /// It holds in a server of one's own, too. The names in a certificate are those of the
    /// [`Peer`](unanimo_tls::Peer) in the extensions of a request. Connections of
    /// [`unanimo_tls::Server`] bring it; for another TLS an interceptor puts
    /// [`Peer::of_verified_certificate`](unanimo_tls::Peer::of_verified_certificate) there. Tokens need nothing else. A coordinator
    /// in the same process, without a network, has neither and is refused, so leave this out there.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # fn example(database: unanimo_sdk::Sqlite) {
    /// use unanimo_sdk::{Accept, Participant};
    ///
    /// let coordinators = Accept::new()
    ///     .subject("spiffe://shop.example/coordinator")
    ///     .token_hashes("/etc/shop/coordinators");
    /// Participant::new("shop", database).accept(coordinators);
    /// # }
    /// ```
    #[must_use]
    pub fn accept(mut self, accept: Accept) -> Self {
        self.accept = Some(accept);
        self
    }

    /// Sets up the service's own tables: creates them, migrates them, puts first rows into them. It is run
    /// once phase two and the sweeper are served, and before the first Prepare and the registration. A
    /// branch that a former life of the process prepared may hold the very locks that this asks for, and
    /// only phase two ends it.
    ///
    /// The connection is one of its own, which waits for each lock for some seconds at most. An error that
    /// is such a wait is no failure: all of it is run again, so it must do no harm twice.
    ///
    /// May be called again, by another module of the service, say: one is run after the other.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # fn example(database: unanimo_sdk::Sqlite) {
    /// use unanimo_sdk::Participant;
    ///
    /// Participant::new("shop", database).set_up(|db| {
    ///     Box::pin(async move {
    ///         let table = "CREATE TABLE IF NOT EXISTS stock (item text PRIMARY KEY, free integer)";
    ///         sqlx::query(table).execute(db).await?;
    ///         Ok(())
    ///     })
    /// });
    /// # }
    /// ```
    #[must_use]
    pub fn set_up<F>(mut self, set_up: F) -> Self
    where
        F: for<'c> Fn(
                &'c mut R::Connection,
            )
                -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'c>>
            + Send
            + Sync
            + 'static,
    {
        self.set_up.add(Box::new(set_up));
        self
    }

    /// Time after which a set-up that lasts raises the alarm `set_up_lasts`, and again after each such time.
    /// Default five minutes: make it longer than what the service sets up takes. It ends nothing.
    #[must_use]
    pub fn set_up_alarm_after(mut self, time: Duration) -> Self {
        self.set_up.tell_after(time);
        self
    }

    /// Offers a TCC action.
    #[must_use]
    pub fn tcc(self, action: impl Into<String>, handler: impl Tcc<R>) -> Self {
        self.with(action.into(), Registered::tcc(handler))
    }

    /// Offers a TCC action that works outside of the database, too.
    #[must_use]
    pub fn tcc_outside(self, action: impl Into<String>, handler: impl TccOutside<R>) -> Self {
        self.with(action.into(), Registered::tcc_outside(handler))
    }

    /// Offers an action as a step of sagas, with its compensation.
    #[must_use]
    pub fn saga(self, action: impl Into<String>, handler: impl Saga<R>) -> Self {
        self.with(action.into(), Registered::saga(handler))
    }

    /// Offers an action as a step of sagas that works outside of the database, too.
    #[must_use]
    pub fn saga_outside(self, action: impl Into<String>, handler: impl SagaOutside<R>) -> Self {
        self.with(action.into(), Registered::saga_outside(handler))
    }

    /// Offers an action as a step of sagas that nothing makes up for.
    #[must_use]
    pub fn uncompensated(self, action: impl Into<String>, handler: impl Uncompensated<R>) -> Self {
        self.with(action.into(), Registered::uncompensated(handler))
    }

    /// Lets a test come between a handler's success and the commit of its work. Of the crate
    /// `unanimo-testing`; not for programs.
    #[doc(hidden)]
    #[must_use]
    pub fn interrupted(mut self, interrupt: &Interrupt) -> Self {
        let actions = self.actions.into_iter();
        let wrap = |registered: Registered<R::Connection>| {
            registered.interrupted(Interrupt::clone(interrupt))
        };
        self.actions = actions.map(|(name, registered)| (name, wrap(registered))).collect();
        self
    }

    fn with(mut self, action: String, registered: Registered<R::Connection>) -> Self {
        self.check("action", &action);
        match self.actions.entry(action) {
            Entry::Vacant(entry) => {
                entry.insert(registered);
            }
            Entry::Occupied(entry) => {
                self.error.get_or_insert(Error::Twice(entry.key().clone()));
            }
        }
        self
    }

    fn check(&mut self, what: &'static str, name: &str) {
        if !names::is_name(name, NAME_BYTES_MAX) {
            self.error.get_or_insert(Error::Name { what, name: name.to_owned() });
        }
    }

    /// The service, to add to a gRPC server of one's own or to a coordinator in the same process.
    /// Otherwise see [`Self::serve`].
    ///
    /// # Errors
    /// A name breaks the rules, the database cannot do what an action needs, or the file of [`Self::accept`] cannot be
    /// used.
    ///
    /// # Panics
    /// Outside a tokio runtime, if [`Self::accept`] names a file.
    pub fn service(mut self) -> Result<Service<R>, Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(accept) = self.accept {
            self.of.accepted = accept.load()?;
        }
        Ok(Service::new(self.of, self.resource, self.actions, self.set_up))
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<R: crate::TwoPhaseResource> Participant<R> {
    /// Offers an action of two-phase commit.
    #[must_use]
    pub fn two_phase(self, action: impl Into<String>, handler: impl crate::TwoPhase<R>) -> Self {
        self.with_two_phase(action.into(), Registered::two_phase::<R, _>(handler))
    }

    /// Offers an action of two-phase commit, if the database can prepare transactions.
    fn with_two_phase(mut self, action: String, registered: Registered<R::Connection>) -> Self {
        match self.resource.cannot_prepare() {
            Some(why) if !registered.read_only => {
                let why = why.to_owned();
                self.error.get_or_insert(Error::CannotPrepare { why });
            }
            _ => {}
        }
        self.with(action, registered)
    }
}
