// A shop in Node that takes part in transactions over HTTP: it reserves and sells pieces of its stock.
//
//     node server.js --item lamp=100

import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import { parseArgs } from "node:util";

import { Barrier } from "./barrier.js";
import { Coordinator } from "./coordinator.js";
import { NoAnswer, Participant } from "./participant.js";
import { ACTIONS, addItem } from "./stock.js";

// A payload and an output have a MiB each, inputs one and a half; base64 makes four bytes of three.
const BODY_BYTES_MAX = 6 << 20;

const { values: options } = parseArgs({
  options: {
    name: { type: "string", default: "node-shop" },
    file: { type: "string", default: "shop.journal" },
    item: { type: "string", multiple: true, default: [] },
    // Address to listen on, and the one at which the coordinator reaches it.
    listen: { type: "string", default: "127.0.0.1:0" },
    advertise: { type: "string" },
    // HTTP address of the coordinator, and a file with the token for it.
    coordinator: { type: "string", default: "http://127.0.0.1:7611" },
    "token-file": { type: "string" },
    // Lines ID:HASH of the coordinators that may call, as `unanimo token coordinator` prints them.
    "accept-tokens": { type: "string" },
    "tls-cert": { type: "string" },
    "tls-key": { type: "string" },
    // The authority of the coordinator's certificate, which it must show then.
    "tls-client-ca": { type: "string" },
    "sweep-interval": { type: "string", default: "30" },
  },
});

const barrier = new Barrier(options.file);
for (const item of options.item) {
  const [name, pieces] = item.split("=");
  addItem(barrier, name, Number(pieces));
}
const participant = new Participant(options.name, barrier, ACTIONS);

// Answers one request: below `/tx` there are the three calls, and `/stock` is for people.
async function answer(request) {
  if (request.url === "/stock" && request.method === "GET") return Object.fromEntries(barrier.values);
  const call = /^\/tx\/(prepare|commit|cancel)$/.exec(request.url)?.[1];
  if (!call) throw new NoAnswer(404, "UNIMPLEMENTED", "there are /tx/prepare, /tx/commit and /tx/cancel");
  if (request.method !== "POST") throw new NoAnswer(405, "UNIMPLEMENTED", "must be a POST");
  if (!/^application\/json *(;|$)/i.test(request.headers["content-type"] ?? "")) {
    throw new NoAnswer(415, "UNIMPLEMENTED", "content-type must be application/json");
  }
  accept(request.headers.authorization);
  const body = await read(request);
  let message;
  try {
    message = JSON.parse(body);
  } catch (error) {
    throw new NoAnswer(400, "INVALID_ARGUMENT", `the body must be JSON: ${error.message}`);
  }
  return participant.answer(call, message ?? {});
}

// Whoever can send Commit confirms payments: with --accept-tokens the coordinators in the file alone can.
function accept(authorization) {
  const file = options["accept-tokens"];
  if (!file) return;
  const token = /^Bearer +(\S+)$/i.exec(authorization ?? "")?.[1] ?? "";
  const digest = crypto.createHash("sha256").update(token).digest();
  const lines = fs.readFileSync(file, "utf8").split("\n").map((line) => line.trim());
  const hashes = lines.filter((line) => line && !line.startsWith("#")).map((line) => line.split(":")[1] ?? "");
  const known = hashes.map((hash) => Buffer.from(hash, "hex")).filter((hash) => hash.length === digest.length);
  // All of them, in a time that does not tell where they differ.
  if (!known.map((hash) => crypto.timingSafeEqual(hash, digest)).some(Boolean)) {
    throw new NoAnswer(401, "UNAUTHENTICATED", "the token is not known");
  }
}

async function read(request) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) throw new NoAnswer(413, "RESOURCE_EXHAUSTED", `the body has more than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

// A text of others may be long, and an error is short: less than a kilobyte, however it is written.
const short = (text) => Buffer.from(text).subarray(0, 300).toString().replace(/\uFFFD+$/, "");

async function serve(request, response) {
  let [status, type, body] = [200, "application/json"];
  try {
    body = await answer(request);
  } catch (error) {
    const isOurs = error instanceof NoAnswer;
    if (!isOurs) console.error("no answer:", error);
    status = isOurs ? error.status : 500;
    type = "application/problem+json";
    body = { title: "No answer", status, code: isOurs ? error.code : "UNKNOWN", detail: short(error.message) };
  }
  response.writeHead(status, { "content-type": type });
  response.end(JSON.stringify(body));
}

function tlsOptions() {
  const [cert, key, ca] = ["tls-cert", "tls-key", "tls-client-ca"].map((name) => options[name] && fs.readFileSync(options[name]));
  return { cert, key, ca, requestCert: Boolean(ca), rejectUnauthorized: Boolean(ca) };
}

const isTls = Boolean(options["tls-cert"]);
const server = isTls ? https.createServer(tlsOptions(), serve) : http.createServer(serve);
// Longer than a coordinator keeps a connection without a call.
server.keepAliveTimeout = 15_000;
const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(options.listen);
server.listen(Number(port), host, () => {
  const scheme = isTls ? "https+json" : "http+json";
  const endpoint = options.advertise ?? `${scheme}://${host}:${server.address().port}/tx`;
  const tokenFile = options["token-file"];
  const coordinator = new Coordinator({
    url: options.coordinator,
    name: options.name,
    endpoint,
    token: tokenFile && fs.readFileSync(tokenFile, "utf8").trim(),
    barrier,
    sweepMs: Number(options["sweep-interval"]) * 1000,
  });
  coordinator.start();
  console.log(`${options.name} serves at ${endpoint}`);
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, async () => {
      // First no new work, then no connections; what is under way ends.
      await coordinator.stop();
      server.close(() => {
        barrier.close();
        process.exit(0);
      });
      server.closeIdleConnections();
    });
  }
});
