// The three calls: JSON in, the barrier's answers out. A response with the status 200 is an answer; whatever else is sent is
// none, and the call comes again.

import { Refused } from "./barrier.js";

// What a call may require. Anything else is refused: without it the work would be another one.
export const FEATURES = ["must_succeed", "output_bytes_max", "saga", "step_inputs", "tcc"];

const MODES = { MODE_TCC: "tcc", MODE_SAGA: "saga" };
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const ID = /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$/;
const CLUSTER_ID = /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,31}$/;

// No answer: a status of HTTP, and the code of gRPC that it means.
export class NoAnswer extends Error {
  constructor(status, code, detail) {
    super(detail);
    Object.assign(this, { status, code });
  }
}

const invalid = (detail) => new NoAnswer(400, "INVALID_ARGUMENT", detail);

export class Participant {
  constructor(name, barrier, actions) {
    Object.assign(this, { name, barrier, actions });
  }

  // Answers a call: the message of the contract in its JSON mapping.
  answer(call, request) {
    this.#check(call, request);
    switch (call) {
      case "prepare":
        return { ...this.#prepare(request), databaseId: this.barrier.databaseId };
      case "commit":
        return this.#commit(request);
      case "cancel":
        return this.#cancel(request);
    }
  }

  #prepare(request) {
    const mode = MODES[request.context.mode] ?? "";
    const unknown = unknownFeature(request);
    // The name in `requires` is enough where something else is not known.
    const mustSucceed = request.mustSucceed || (unknown && request.requires.includes("must_succeed"));
    return this.barrier.prepare(request.context, mode, boundOf(request), mustSucceed, (view) => {
      // Thrown in here, a refusal is a vote like any other: stored.
      if (unknown) throw new Refused("FEATURE_UNSUPPORTED", `${this.name} does not know the feature ${unknown}`);
      if (!mode) throw new Refused("MODE_NOT_OFFERED", `${this.name} takes part in TCC and sagas only`);
      const action = this.#action(mode, request);
      if (!action) {
        throw new Refused("ACTION_NOT_OFFERED", `${this.name} has no action ${request.action} in mode ${mode}`);
      }
      const output = action.prepare(view, bytesOf(request.payload), inputsOf(request));
      const size = bytesOf(output).length;
      // The saga cannot be undone any more for an output that a later step would miss.
      if (request.outputBytesMax !== undefined && BigInt(size) > BigInt(request.outputBytesMax)) {
        throw new Refused("OUTPUT_TOO_LARGE", `the output has ${size} bytes, and must have fewer here`);
      }
      return output;
    });
  }

  #commit(request) {
    const asked = request.context.databaseId;
    if (asked && asked !== this.barrier.databaseId) {
      // What this file holds of the branch, if anything, is not what was voted for.
      const note = `this process has the database ${this.barrier.databaseId}, and not ${asked}`;
      return { heuristic: { kind: "HEURISTIC_KIND_HAZARD", note } };
    }
    return this.barrier.commit(request.context, (view, row) => {
      return this.#action(row.mode, request).commit?.(view, bytesOf(request.payload), inputsOf(request), row.output);
    });
  }

  #cancel(request) {
    return this.barrier.cancel(request.context, boundOf(request), (view, row) => {
      return this.#action(row.mode, request).cancel(view, bytesOf(request.payload), inputsOf(request), row.output);
    });
  }

  #action(mode, request) {
    const of = this.actions[mode];
    return of && Object.hasOwn(of, request.action ?? "") ? of[request.action] : undefined;
  }

  // What names no branch of ours gets an error status, and stores nothing.
  #check(call, { context, requires }) {
    if (!UUID.test(context?.txId ?? "")) throw invalid("context.txId must be a UUID in lower case");
    for (const [field, rule] of [["gid", ID], ["branchId", ID], ["clusterId", CLUSTER_ID]]) {
      if (!rule.test(context[field] ?? "")) throw invalid(`context.${field} breaks the rules of names`);
    }
    if (!context.branchNumber) throw invalid("context.branchNumber must be above 0");
    if (!context.mode || context.mode === "MODE_UNSPECIFIED") throw invalid("context.mode must be given");
    if (context.participant !== this.name) {
      throw new NoAnswer(412, "FAILED_PRECONDITION", `this is participant ${this.name}, not ${context.participant}`);
    }
    const isOther = context.databaseId && context.databaseId !== this.barrier.databaseId;
    if (isOther && call !== "commit") {
      throw new NoAnswer(412, "FAILED_PRECONDITION", `this process has the database ${this.barrier.databaseId}`);
    }
    // A copy of the file has the same id. Nothing is done to it, and no Commit is taken for answered.
    const { databasePlace } = this.barrier;
    if (!isOther && context.databasePlace && context.databasePlace !== databasePlace) {
      const detail = `this process has its database at ${databasePlace}, and not at ${context.databasePlace}`;
      throw new NoAnswer(412, "FAILED_PRECONDITION", detail);
    }
    const unknown = unknownFeature({ requires });
    if (call !== "prepare" && unknown) {
      throw new NoAnswer(501, "UNIMPLEMENTED", `${this.name} does not know the feature ${unknown}`);
    }
  }
}

function unknownFeature({ requires }) {
  return (requires ?? []).find((name) => !FEATURES.includes(name));
}

// Until when a Prepare of the branch may come, in milliseconds; null if there is no bound.
function boundOf({ prepareUntil }) {
  if (prepareUntil === undefined) return null;
  const until = Date.parse(prepareUntil);
  if (Number.isNaN(until)) throw invalid("prepareUntil must be a time");
  return until;
}

function bytesOf(payload) {
  return Buffer.from(payload?.data ?? "", "base64");
}

// Outputs of earlier steps, by the names that the saga's definition gives them.
function inputsOf({ inputs }) {
  return Object.fromEntries(Object.entries(inputs ?? {}).map(([name, payload]) => [name, bytesOf(payload)]));
}
