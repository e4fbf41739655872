// What makes operations idempotent and ordered: a row for each branch, in the same record as its work. Nothing here knows
// what the participant does: `work(view)` is its business. The rules in words: docs/participant-guide.md.
//
// Each operation runs from its first look at the row to its durable record without a pause, so that no other one comes
// between. In a database with several writers a lock on the row does that. So `work` must not be async: its record is
// written when it returns.

import crypto from "node:crypto";

import { Journal } from "./journal.js";

// The vote no. Thrown by `work`, of whose effects nothing is kept then.
export class Refused extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

// Returns what work returned. An async function has done nothing yet: that is no vote and no end, and the call comes again.
function done(result) {
  if (typeof result?.then !== "function") return result;
  result.then(undefined, () => {});
  throw new TypeError("the work of a branch must not be async: its record is written when it returns");
}

// How far ahead a time may be before it is certain that the clock was set back.
const AHEAD_MS = 60_000;

const LOST = "Commit found no trace of a branch that voted yes";

export class Barrier {
  constructor(file) {
    this.rows = new Map();
    this.values = new Map();
    this.journal = new Journal(file, (record) => this.#apply(record));
    if (!this.values.has("database-id")) this.put({ "database-id": crypto.randomUUID() });
    // Tells this file from another one under the same participant's name.
    this.databaseId = this.values.get("database-id");
    // Tells a copy of it apart, which has the same id.
    this.databasePlace = this.journal.place();
  }

  #apply({ row, set }) {
    if (row) this.rows.set(keyOf(row), row);
    for (const [name, value] of Object.entries(set ?? {})) {
      if (value === null) this.values.delete(name);
      else this.values.set(name, value);
    }
  }

  // Stores values by name, outside of any branch.
  put(set) {
    this.journal.write({ set });
  }

  // Votes: `{ prepared: { output } }` or `{ refused: { reason, message } }`. `work(view)` returns the output.
  prepare(context, mode, until, mustSucceed, work) {
    const found = this.rows.get(keyOf(context));
    if (found) return voteOf(found);
    const row = { ...branchOf(context), mode, until };
    const view = new View(this.values);
    try {
      if (until !== null && Date.now() > until) {
        throw new Refused("TOO_LATE", "Prepare came after the transaction's deadline");
      }
      row.output = done(work(view));
      row.state = "prepared";
    } catch (error) {
      // Anything else is no vote: nothing is kept, and the call comes again.
      if (!(error instanceof Refused)) throw error;
      const { reason, message } = error;
      // A transaction that can no longer be aborted: the call comes again until it succeeds.
      if (mustSucceed) return { refused: { reason, message } };
      Object.assign(row, { state: "refused", reason, message });
    }
    // The vote and the work are one record. Only now may it be answered.
    this.#store(row, row.state === "prepared" ? view.changes() : {});
    return voteOf(row);
  }

  // Ends: `{ done: {} }` or `{ heuristic: { kind, note } }`. `work(view, row)` confirms.
  commit(context, work) {
    const row = this.rows.get(keyOf(context));
    switch (row?.state) {
      case "prepared": {
        const view = new View(this.values);
        done(work(view, row));
        this.#store({ ...row, state: "committed" }, view.changes());
        return { done: {} };
      }
      case "committed":
        return { done: {} };
      case "refused":
      case "cancelled":
        return heuristic("ROLLBACK", `Commit found the branch ${row.state}`);
      case "lost":
        return heuristic("HAZARD", LOST);
      default:
        this.#store({ ...branchOf(context), mode: "", until: null, state: "lost" }, {});
        return heuristic("HAZARD", LOST);
    }
  }

  // Ends, as `commit` does. `work(view, row)` cancels, or compensates.
  cancel(context, until, work) {
    const row = this.rows.get(keyOf(context));
    switch (row?.state) {
      case "prepared": {
        const view = new View(this.values);
        done(work(view, row));
        this.#store({ ...row, state: "cancelled" }, view.changes());
        return { done: {} };
      }
      case "cancelled":
      case "refused":
        return { done: {} };
      case "committed":
        return heuristic("COMMIT", "Cancel found the branch committed");
      case "lost":
        return heuristic("HAZARD", LOST);
      default:
        // The tombstone: the late Prepare, which may still be under way, finds it and is refused.
        this.#store({ ...branchOf(context), mode: "", until, state: "cancelled" }, {});
        return { done: {} };
    }
  }

  // Branches that were prepared before this time, and those whose age nobody knows.
  inDoubt(before) {
    const isInDoubt = (row) => row.state === "prepared" && (row.changedAt < before || isAhead(row));
    return [...this.rows.values()].filter(isInDoubt);
  }

  // A step whose saga is committed: nobody sends it a Commit.
  commitStep(row) {
    const now = this.rows.get(keyOf(row));
    if (now?.state === "prepared" && now.mode === "saga") this.#store({ ...now, state: "committed" }, {});
  }

  #store(row, set) {
    this.journal.write({ row: { ...row, changedAt: Date.now() }, set });
  }

  close() {
    this.journal.close();
  }
}

// Values as the work of one operation sees and changes them.
class View {
  #values;
  #set = {};

  constructor(values) {
    this.#values = values;
  }

  get(name) {
    const changed = this.#set[name];
    if (changed === null) return undefined;
    return structuredClone(changed ?? this.#values.get(name));
  }

  set(name, value) {
    this.#set[name] = structuredClone(value);
  }

  remove(name) {
    this.#set[name] = null;
  }

  changes() {
    return this.#set;
  }
}

// Prepared at a time to come: the clock was set back since.
function isAhead({ changedAt }) {
  return changedAt > Date.now() + AHEAD_MS;
}

// How long a branch is prepared. One that was prepared before the clock was set back may be of any age.
export function ageMs(row) {
  return isAhead(row) ? Infinity : Math.max(Date.now() - row.changedAt, 0);
}

// tx_id and branch_id together are the key. Neither can have a blank.
function keyOf({ txId, branchId }) {
  return `${txId} ${branchId}`;
}

function branchOf({ txId, branchId, clusterId }) {
  return { txId, branchId, clusterId };
}

function voteOf(row) {
  switch (row.state) {
    case "prepared":
    case "committed":
      return { prepared: { output: row.output } };
    case "refused":
      return { refused: { reason: row.reason, message: row.message } };
    default:
      return { refused: { reason: "ALREADY_ENDED", message: "phase two came first" } };
  }
}

function heuristic(kind, note) {
  return { heuristic: { kind: `HEURISTIC_KIND_${kind}`, note } };
}
