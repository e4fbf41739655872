// The example's barrier and sweep, where a handler is async and where the coordinator tells of some branches only. Run by
// node.rs: each case says its name when it has passed.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import http from "node:http";
import { once } from "node:events";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [example, folder] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(example, name)));
const { Barrier } = await load("barrier.js");
const { Coordinator } = await load("coordinator.js");

const branch = () => ({ txId: crypto.randomUUID(), branchId: "b", gid: "g", clusterId: "c" });

{
  const barrier = new Barrier(path.join(folder, "async.journal"));
  barrier.put({ left: 3 });
  const take = (view) => view.set("left", view.get("left") - 1);
  const later = async (view) => {
    await null;
    take(view);
  };
  const failing = async () => {
    throw new Error("it failed later");
  };
  const of = branch();
  for (const work of [later, failing]) {
    assert.throws(() => barrier.prepare(of, "tcc", null, false, work), /must not be async/);
  }
  // Nothing was kept: it is prepared as if for the first time.
  assert.ok(barrier.prepare(of, "tcc", null, false, take).prepared);
  for (const work of [later, failing]) {
    assert.throws(() => barrier.commit(of, work), /must not be async/);
    assert.throws(() => barrier.cancel(of, null, work), /must not be async/);
  }
  assert.deepEqual(barrier.commit(of, take), { done: {} });
  assert.equal(barrier.values.get("left"), 1);
  barrier.close();
  console.log("async");
}

{
  const asked = [];
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const answer = (status, body) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    };
    if (!request.url.endsWith(":inquire")) return answer(200, {});
    const { clusterId, branches } = JSON.parse(Buffer.concat(chunks));
    asked.push(clusterId);
    if (clusterId === "former") return answer(412, { detail: "another group", reason: "OTHER_CLUSTER" });
    if (clusterId === "silent") return response.destroy();
    answer(200, { verdicts: branches.map(() => ({ verdict: "VERDICT_COMMIT" })) });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const lines = [];
  const before = console.error;
  console.error = (line) => lines.push(line);
  const committed = [];
  const row = (clusterId) => ({ ...branch(), clusterId, mode: "saga", state: "prepared", changedAt: Date.now() - 3_600_000 });
  const [former, silent, live] = ["former", "silent", "live"].map(row);
  const barrier = {
    databaseId: "d",
    inDoubt: () => [former, silent, live],
    commitStep: (found) => committed.push(found),
  };
  const url = `http://127.0.0.1:${server.address().port}`;
  const coordinator = new Coordinator({
    url, name: "shop", endpoint: "http+json://127.0.0.1:1/tx", barrier, sweepMs: 100, graceMs: 100,
  });
  coordinator.start();
  while (asked.filter((clusterId) => clusterId === "live").length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
  await coordinator.stop();
  server.close();
  console.error = before;
  assert.equal(committed[0], live);
  assert.match(lines.find((line) => line.includes("former")), /^alarm=in_doubt_other_cluster 1 branches/);
  assert.ok(lines.some((line) => /^alarm=in_doubt nobody tells of 1 branches since/.test(line)), lines.join("\n"));
  console.log("groups");
}

{
  const barrier = new Barrier(path.join(folder, "ages.journal"));
  const of = branch();
  barrier.prepare(of, "tcc", null, false, () => null);
  const row = [...barrier.rows.values()][0];
  assert.equal(barrier.inDoubt(Date.now() - 60_000).length, 0);
  // The clock was set back since: nobody knows its age.
  row.changedAt = Date.now() + 3_600_000;
  assert.deepEqual(barrier.inDoubt(Date.now() - 60_000), [row]);
  row.changedAt = Date.now() + 5_000;
  assert.equal(barrier.inDoubt(Date.now() - 60_000).length, 0);
  barrier.close();

  const rows = new Map();
  const told = [];
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.writeHead(200, { "content-type": "application/json" });
    if (!request.url.endsWith(":inquire")) return response.end("{}");
    const { branches } = JSON.parse(Buffer.concat(chunks));
    told.push(branches.length);
    response.end(JSON.stringify({ verdicts: branches.map(({ txId }) => rows.get(txId).says) }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const MINUTE = 60_000;
  const HOUR = 60 * MINUTE;
  const add = (name, mode, ageMs, says) => {
    const made = { ...branch(), branchId: name, mode, state: "prepared", changedAt: Date.now() - ageMs };
    rows.set(made.txId, { made, says });
  };
  const past = (ms) => new Date(Date.now() - ms).toISOString();
  add("not-ended", "tcc", HOUR, { verdict: "VERDICT_CANCEL" });
  add("ahead", "tcc", -HOUR, { verdict: "VERDICT_COMMIT" });
  add("not-decided", "tcc", 9 * HOUR, { verdict: "VERDICT_RUNNING", prepareUntil: past(2 * HOUR) });
  add("without-a-bound", "tcc", 9 * HOUR, { verdict: "VERDICT_RUNNING" });
  add("before-its-bound", "tcc", 9 * HOUR, { verdict: "VERDICT_RUNNING", prepareUntil: past(-HOUR) });
  add("running-step", "saga", 99 * HOUR, { verdict: "VERDICT_RUNNING", prepareUntil: past(9 * HOUR) });
  add("owed-step", "saga", 99 * HOUR, { verdict: "VERDICT_CANCEL" });
  const lines = [];
  const before = console.error;
  console.error = (line) => lines.push(line);
  const coordinator = new Coordinator({
    url: `http://127.0.0.1:${server.address().port}`, name: "shop", endpoint: "http+json://127.0.0.1:1/tx",
    barrier: { databaseId: "d", inDoubt: () => [...rows.values()].map(({ made }) => made), commitStep: () => {} },
    sweepMs: 50, graceMs: 200,
  });
  const alarms = () => new Set(lines.map((line) => line.match(/^alarm=(\S+) branch (\S+)/)?.slice(1).join(" ")));
  const wanted = ["in_doubt_not_ended not-ended", "in_doubt_not_ended ahead", "in_doubt_not_decided not-decided", "in_doubt_not_decided without-a-bound"];
  // Its age counts since it is known that it is owed.
  coordinator.start();
  while (told.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(alarms(), new Set(wanted), lines.join("\n"));
  while (!alarms().has("in_doubt_not_ended owed-step")) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(alarms(), new Set([...wanted, "in_doubt_not_ended owed-step"]), lines.join("\n"));
  await coordinator.stop();
  server.close();
  console.error = before;
  console.log("ages");
}
