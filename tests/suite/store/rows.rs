//! Rows of the log, past the store.

use sqlx::Connection;
use unanimo_core::{Gid, Transition, TxId};

/// Returns statements that begin a TCC of another incarnation, with a digest of zeros.
pub(crate) fn begun(gid: &Gid) -> String {
    let gid = gid.as_str();
    let name: String = gid.bytes().map(|byte| format!("{byte:02x}")).collect();
    let identity = format!("01{:02x}{name}030120{}02000000020201", gid.len(), "00".repeat(32));
    let body = format!("01{identity}0202010000000100030100");
    format!(
        "WITH named AS (
             INSERT INTO gids (epoch, key, tx_id)
             SELECT epoch, encode(substr(sha256('{gid}'), 1, 16), 'hex')::uuid, gen_random_uuid() FROM cluster RETURNING tx_id)
         INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, body)
         SELECT tx_id, 0, 1, 99, gen_random_uuid(), 1, 0, decode('{body}', 'hex') FROM named"
    )
}

/// Returns a statement that writes the next row of a transaction on PostgreSQL.
pub(crate) fn next_on_postgres(tx_id: TxId) -> String {
    next_with(&format!("'{tx_id}'"), "gen_random_uuid()", "''")
}

fn next_with(tx_id: &str, write_id: &str, body: &str) -> String {
    format!(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT tx_id, version, version + 1, owner, {write_id}, kind, {body} FROM log
         WHERE tx_id = {tx_id} ORDER BY follows DESC LIMIT 1"
    )
}

/// Writes the next row of a transaction, as a claim does.
pub(crate) async fn next(url: &str, tx_id: TxId) {
    let statement = match url.starts_with("sqlite:") {
        true => next_with(&format!("x'{}'", tx_id.0.simple()), "randomblob(16)", "x''"),
        false => next_on_postgres(tx_id),
    };
    super::execute(url, &statement).await;
}

/// Bytes before the time of the begin, without the name: form, part and length of the name, mode, drive, digest
/// and its version. The deadline follows, and is as long.
const BEFORE_BEGIN: usize = 3 + 2 + 33 + 1;
const TIME: usize = 6;

/// Sets the deadline in the body of a first row to the time of the begin.
pub(crate) fn expire(body: &mut [u8]) {
    if body.get(1) == Some(&1) {
        let begin = BEFORE_BEGIN + usize::from(body[2]);
        body.copy_within(begin..begin + TIME, begin + TIME);
    }
}

/// Does the same to all, on PostgreSQL.
pub(crate) const EXPIRE_ALL: &str = "UPDATE unanimo.log
    SET body = overlay(body PLACING substr(body, get_byte(body, 2) + 40, 6)
        FROM get_byte(body, 2) + 46 FOR 6)
    WHERE follows = 0";

/// Changes the body of each row of a transaction.
pub(crate) async fn edit(url: &str, tx_id: TxId, change: impl Fn(&mut Vec<u8>)) {
    let select = "SELECT follows, body FROM log WHERE tx_id = $1 AND length(body) > 0";
    let update = "UPDATE log SET body = $3 WHERE tx_id = $1 AND follows = $2";
    edit_column(url, tx_id, [select, update], change).await;
}

/// Changes the data of each row of a transaction that has some.
pub(crate) async fn edit_data(url: &str, tx_id: TxId, change: impl Fn(&mut Vec<u8>)) {
    let select = "SELECT follows, data FROM log WHERE tx_id = $1 AND data IS NOT NULL";
    let update = "UPDATE log SET data = $3 WHERE tx_id = $1 AND follows = $2";
    edit_column(url, tx_id, [select, update], change).await;
}

async fn edit_column(
    url: &str,
    tx_id: TxId,
    [select, update]: [&'static str; 2],
    change: impl Fn(&mut Vec<u8>),
) {
    macro_rules! edit_with {
        ($raw:expr) => {
            let mut raw = $raw;
            let query = sqlx::query_as(select).bind(tx_id.0);
            let rows: Vec<(i64, Vec<u8>)> = query.fetch_all(&mut raw).await.unwrap();
            for (follows, mut body) in rows {
                change(&mut body);
                let query = sqlx::query(update).bind(tx_id.0).bind(follows).bind(body);
                query.execute(&mut raw).await.unwrap();
            }
            raw.close().await.unwrap();
        };
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        edit_with!(sqlx::SqliteConnection::connect_with(&options).await.unwrap());
    } else {
        edit_with!(sqlx::PgConnection::connect(url).await.unwrap());
    }
}

/// Replaces the first place that has these bytes, if there is one.
pub(crate) fn replace(body: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    if let Some(place) = body.windows(from.len()).position(|window| window == from) {
        body.splice(place..place + from.len(), to.iter().copied());
    }
}

/// Replaces the part of a first row's body that is so many bytes behind the client's name.
pub(crate) fn replace_identity(body: &mut Vec<u8>, behind: usize, len: usize, to: &[u8]) {
    if body.get(1) == Some(&1) {
        let place = 3 + usize::from(body[2]) + behind;
        body.splice(place..place + len, to.iter().copied());
    }
}

/// Replaces the text that begins so, and what has so many bytes behind it.
pub(crate) fn respell(body: &mut Vec<u8>, begin: &[u8], text: Option<&str>, behind: &[u8]) {
    let Some(place) = body.windows(begin.len()).position(|window| window == begin) else { return };
    // Its length is in front of it: seven bits in a byte, the low ones first.
    let (high, low) = (usize::from(body[place - 1]), usize::from(body[place - 2]));
    let (digits, len) = if low >= 0x80 { (2, (low & 0x7f) | high << 7) } else { (1, high) };
    let end = place + len;
    if !behind.is_empty() {
        body.splice(end..=end, behind.iter().copied());
    }
    if let Some(text) = text {
        let length = u8::try_from(text.len()).unwrap();
        let new = [length].into_iter().chain(text.bytes());
        body.splice(place - digits..end, new);
    }
}

/// Makes the database refuse each row that is [marked](mark).
pub(crate) async fn refuse_marked(url: &str) {
    let refuse = match url.starts_with("sqlite:") {
        true => {
            "CREATE TRIGGER refuse BEFORE INSERT ON log WHEN instr(NEW.body, CAST('refuse me' AS blob)) > 0
             BEGIN SELECT RAISE(ABORT, 'it is marked'); END"
        }
        false => {
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'it is marked' USING ERRCODE = 'check_violation'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON log FOR EACH ROW
                 WHEN (position('refuse me'::bytea IN NEW.body) > 0) EXECUTE FUNCTION refuse()"
        }
    };
    super::execute(url, refuse).await;
}

/// Marks a transition.
pub(crate) fn mark(transition: &mut Transition) {
    transition.state.abort_detail = Some("refuse me".to_owned());
}
