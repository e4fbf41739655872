// What the participant asks of the coordinator, over its HTTP address: a place in the directory, and what became of branches
// that nobody ends.

import crypto from "node:crypto";

import { ageMs } from "./barrier.js";
import { FEATURES } from "./participant.js";

const CALL_TIMEOUT_MS = 5_000;
const RETRY_MS = 1_000;
// Between two registrations, where the coordinator says nothing, and the least and the most that it may say.
const KEEP_ALIVE_MS = 10_000;
const KEEP_ALIVE_MS_MIN = 100;
const KEEP_ALIVE_MS_MAX = 3_600_000;
// The most that one question may hold.
const INQUIRE_MAX = 256;
// Graces after which a branch that nobody tells of needs a person.
const GRACES_UNTIL_ALARM = 5;
// Time past its transaction's deadline at which a branch that is not decided needs one.
const NOT_DECIDED_MS = 3_600_000;

const DECIDED = ["VERDICT_COMMIT", "VERDICT_CANCEL"];
// On these nobody may act.
const UNKNOWN = ["VERDICT_NEVER_SEEN", "VERDICT_PURGED", "VERDICT_HEURISTIC"];

export class Coordinator {
  // A prepared branch is asked about from the age `graceMs`, each `sweepMs`.
  constructor({ url, name, endpoint, token, barrier, sweepMs, graceMs }) {
    Object.assign(this, { url, name, token, barrier, sweepMs, graceMs });
    // New for each start: calls that wait for this participant are then sent.
    this.of = { endpoint, instanceId: crypto.randomUUID() };
    this.timers = new Set();
    // Steps that are to be compensated, and the time at which that was found.
    this.owedSince = new Map();
  }

  start() {
    this.#repeat(() => {
      this.registering = this.#register();
      return this.registering;
    });
    this.#repeat(async () => this.#sweep());
  }

  // Deregisters, so that no new work comes.
  async stop() {
    this.stopped = true;
    this.timers.forEach(clearTimeout);
    // One that is under way would come after it.
    await this.registering?.catch(() => {});
    await this.#post(`/v1/participants/${this.name}:deregister`, this.of).catch(() => {});
  }

  // Runs `work` again and again, after as many milliseconds as it returns.
  #repeat(work) {
    const round = async () => {
      const pause = await work().catch((error) => {
        console.error(`coordinator ${this.url}: ${error.cause?.message ?? error.message}`);
        return RETRY_MS;
      });
      if (this.stopped) return;
      const timer = setTimeout(() => {
        this.timers.delete(timer);
        round();
      }, pause);
      this.timers.add(timer);
    };
    round();
  }

  async #register() {
    const { databaseId, databasePlace } = this.barrier;
    const about = { features: FEATURES, sdk: "unanimo-example-node/0.1.0", databaseId, databasePlace };
    const answer = await this.#post(`/v1/participants/${this.name}:register`, { ...this.of, ...about });
    // "10s"
    const pause = Number.parseFloat(answer.keepAliveInterval) * 1000;
    if (Number.isNaN(pause)) return KEEP_ALIVE_MS;
    return Math.min(Math.max(pause, KEEP_ALIVE_MS_MIN), KEEP_ALIVE_MS_MAX);
  }

  // Asks about what is in doubt. To ask is enough: the coordinator then sends again the Commit or Cancel that it owes. A step
  // of a saga that is committed is sent nothing: its row is committed here. Of what the coordinator does not know, or believes
  // to have ended, a person has to take care: the row stays.
  async #sweep() {
    const groups = new Map();
    this.stillOwed = new Map();
    for (const row of this.barrier.inDoubt(Date.now() - this.graceMs)) {
      groups.set(row.clusterId, [...(groups.get(row.clusterId) ?? []), row]);
    }
    for (const [clusterId, rows] of groups) {
      for (let at = 0; at < rows.length; at += INQUIRE_MAX) {
        const asked = rows.slice(at, at + INQUIRE_MAX);
        // The others are asked about all the same.
        await this.#inquire(clusterId, asked).catch((error) => this.#untold(clusterId, asked, error));
      }
    }
    this.owedSince = this.stillOwed;
    return this.sweepMs;
  }

  // Tells of branches that could not be asked about. They stay, and are asked about in the next sweep.
  #untold(clusterId, rows, error) {
    const why = error.cause?.message ?? error.message;
    const oldest = Math.max(...rows.map(ageMs));
    rows.forEach((row) => this.#keep(row));
    if (error.reason === "OTHER_CLUSTER") {
      console.error(`alarm=in_doubt_other_cluster ${rows.length} branches are of the coordinator group ${clusterId}: ${why}`);
    } else if (oldest > GRACES_UNTIL_ALARM * this.graceMs) {
      const since = oldest === Infinity ? "a time to come" : new Date(Date.now() - oldest).toISOString();
      console.error(`alarm=in_doubt nobody tells of ${rows.length} branches since ${since}: ${why}`);
    } else {
      console.error(`coordinator ${this.url}: ${why}`);
    }
  }

  async #inquire(clusterId, rows) {
    const branches = rows.map(({ txId, branchId }) => ({ txId, branchId }));
    const { databaseId } = this.barrier;
    const asked = { participant: this.name, clusterId, databaseId, branches };
    const { verdicts = [] } = await this.#post("/v1/branches:inquire", asked);
    for (const [index, row] of rows.entries()) {
      const { verdict, ended, prepareUntil } = verdicts[index] ?? {};
      const tell = (alarm, what) => console.error(`alarm=${alarm} branch ${row.branchId} of ${row.txId} is prepared, and ${what}`);
      if (verdict === "VERDICT_COMMIT" && row.mode === "saga") this.barrier.commitStep(row);
      else if (ended || UNKNOWN.includes(verdict)) tell("in_doubt", `the coordinator says ${verdict}`);
      else if (DECIDED.includes(verdict)) {
        if (this.#owedMs(row) > GRACES_UNTIL_ALARM * this.graceMs) {
          tell("in_doubt_not_ended", `was decided long ago: ${verdict} does not arrive, or is not done`);
        }
      } else if (row.mode !== "saga") {
        // A step may wait for its saga's decision for ever. A verdict of a later version is no decision.
        const overMs = prepareUntil ? Date.now() - Date.parse(prepareUntil) : ageMs(row);
        if (Math.min(ageMs(row), overMs) > NOT_DECIDED_MS) tell("in_doubt_not_decided", "its transaction is not decided");
      }
    }
  }

  // How long a branch is known to wait for its end. The age of a step does not tell that.
  #owedMs(row) {
    if (row.mode !== "saga") return ageMs(row);
    const key = `${row.txId} ${row.branchId}`;
    const since = this.owedSince.get(key) ?? performance.now();
    this.stillOwed.set(key, since);
    return performance.now() - since;
  }

  // Of a branch that nobody tells of now the time goes on.
  #keep(row) {
    const key = `${row.txId} ${row.branchId}`;
    if (this.owedSince.has(key)) this.stillOwed.set(key, this.owedSince.get(key));
  }

  async #post(path, body) {
    const headers = { "content-type": "application/json" };
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    const signal = AbortSignal.timeout(CALL_TIMEOUT_MS);
    const response = await fetch(this.url + path, { method: "POST", headers, body: JSON.stringify(body), signal });
    const answer = await response.json();
    if (!response.ok) {
      const error = new Error(`${path}: ${answer.detail ?? response.status}`);
      throw Object.assign(error, { reason: answer.reason });
    }
    return answer;
  }
}
