//! Stations of the pipeline: each makes things of some kinds, and takes them down again.
//!
//! The three participants are the same program with other actions and a database each.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, PrepareError, Saga, Sqlite, Uncompensated, refuse,
};

use crate::sagas::logbook;
use crate::sagas::rows::one_row;

pub(super) const TABLES: &str = "
CREATE TABLE thing (id integer PRIMARY KEY AUTOINCREMENT, kind text NOT NULL, name text NOT NULL,
                    parent text NOT NULL);
CREATE TABLE audit (id integer PRIMARY KEY, text text NOT NULL);
CREATE TABLE closed (kind text PRIMARY KEY);";

/// Participant for the tenant, its quota, and the audit log.
pub(super) fn directory(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database)
        .saga("make-tenant", MakeTenant)
        .saga("make-quota", Make("quota"))
        .uncompensated("write-audit", WriteAudit)
}

/// Participant for machines and what belongs to them.
pub(super) fn cloud(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database)
        .saga("make-network", Make("network"))
        .saga("make-machine", Make("machine"))
        .saga("make-disk", Make("disk"))
        .saga("make-database", Make("database"))
}

/// Participant for names and certificates.
pub(super) fn web(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database)
        .saga("make-name", Make("name"))
        .saga("make-certificate", Make("certificate"))
        .saga("make-monitor", Make("monitor"))
}

/// Output of every step, and the input `parent` of the next ones.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Thing {
    id: i64,
    /// Name of its parent, `/`, and its own: the last one shows the whole chain.
    name: String,
}

/// Payload of the first step.
#[derive(Debug, Deserialize)]
pub(super) struct Customer {
    customer: String,
}

struct MakeTenant;

impl Saga<Sqlite> for MakeTenant {
    type Payload = Json<Customer>;
    type Output = Json<Thing>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Customer>>,
    ) -> Result<Json<Thing>, PrepareError> {
        make(db, call, "tenant", &call.payload.customer).await
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Customer>>,
        Json(tenant): Json<Thing>,
    ) -> Result<(), PhaseTwoError> {
        take_down(db, call, &tenant).await
    }
}

/// Makes a thing of this kind from the input `parent`.
struct Make(&'static str);

impl Saga<Sqlite> for Make {
    type Payload = ();
    type Output = Json<Thing>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<()>,
    ) -> Result<Json<Thing>, PrepareError> {
        let Json(parent) = call.input::<Json<Thing>>("parent")?;
        make(db, call, self.0, &parent.name).await
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<()>,
        Json(thing): Json<Thing>,
    ) -> Result<(), PhaseTwoError> {
        take_down(db, call, &thing).await
    }
}

/// Step without a compensation: its entry is kept if the saga is given up.
struct WriteAudit;

impl Uncompensated<Sqlite> for WriteAudit {
    type Payload = ();
    type Output = ();

    async fn run(&self, db: &mut SqliteConnection, call: &Call<()>) -> Result<(), PrepareError> {
        let Json(network) = call.input::<Json<Thing>>("parent")?;
        check_open(db, "audit").await?;
        let write = "INSERT INTO audit (text) VALUES ($1)";
        let text = format!("{} for {}", network.name, call.branch.gid);
        sqlx::query(write).bind(text).execute(&mut *db).await?;
        logbook::done(db, call, "wrote into the audit log").await?;
        Ok(())
    }
}

async fn make<P>(
    db: &mut SqliteConnection,
    call: &Call<P>,
    kind: &str,
    parent: &str,
) -> Result<Json<Thing>, PrepareError> {
    check_open(db, kind).await?;
    let name = format!("{parent}/{kind}");
    let insert = "INSERT INTO thing (kind, name, parent) VALUES ($1, $2, $3) RETURNING id";
    let insert = sqlx::query_scalar(insert).bind(kind).bind(&name).bind(parent);
    let id = insert.fetch_one(&mut *db).await?;
    logbook::done(db, call, format!("made {kind} {id}")).await?;
    Ok(Json(Thing { id, name }))
}

async fn take_down<P>(
    db: &mut SqliteConnection,
    call: &Call<P>,
    thing: &Thing,
) -> Result<(), PhaseTwoError> {
    let delete = "DELETE FROM thing WHERE id = $1";
    let deleted = sqlx::query(delete).bind(thing.id).execute(&mut *db).await?;
    one_row(deleted.rows_affected(), format_args!("thing {}, {}", thing.id, thing.name))?;
    logbook::undone(db, call, format!("took {} {} down", call.branch.branch_id, thing.id)).await?;
    Ok(())
}

async fn check_open(db: &mut SqliteConnection, kind: &str) -> Result<(), PrepareError> {
    let is_closed = "SELECT EXISTS (SELECT 1 FROM closed WHERE kind = $1)";
    if sqlx::query_scalar(is_closed).bind(kind).fetch_one(db).await? {
        return refuse("CLOSED", format!("no {kind} can be made today"));
    }
    Ok(())
}
