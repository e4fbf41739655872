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

// What a coordinator may send at most: docs/http-participant.md.
const BODY_BYTES_MAX = 8 << 20;
// How long the rest of a body that is too large is thrown away, so that its sender reads the answer.
const DISCARD_MS = 1_000;

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
    // The coordinator may be on another machine without TLS, where whoever is on the way reads all, the token too.
    "coordinator-insecure": { type: "boolean", default: false },
    // Lines ID:HASH of the coordinators that may call, as `unanimo token coordinator` prints them.
    "accept-tokens": { type: "string" },
    "tls-cert": { type: "string" },
    "tls-key": { type: "string" },
    // The authority of the coordinator's certificate, which it must show then.
    "tls-client-ca": { type: "string" },
    "sweep-interval": { type: "string", default: "30" },
    "sweep-grace": { type: "string", default: "60" },
  },
});

function wrong(message) {
  console.error(message);
  process.exit(2);
}

// Tells whether only this machine reaches a host, however it is written.
function isLoopback(host) {
  const { hostname } = URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : { hostname: host };
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/.test(hostname);
}

// Tells whether calls to this address can be read on the way.
function isReadable(address) {
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (!["http:", "https:"].includes(url?.protocol)) wrong(`--coordinator ${address}: must begin with http:// or https://`);
  return url.protocol === "http:" && !isLoopback(url.hostname);
}

const items = options.item.map((item) => {
  const [, name, digits] = /^([^=]+)=(\d+)$/.exec(item) ?? [];
  const pieces = Number(digits);
  if (!Number.isSafeInteger(pieces)) wrong(`--item ${item}: must be NAME=PIECES, and PIECES a whole number from 0`);
  return [name, pieces];
});
const [sweepMs, graceMs] = ["sweep-interval", "sweep-grace"].map((name) => {
  const ms = Number(options[name]) * 1000;
  // Not a number is neither.
  if (!(ms >= 100 && ms <= 86_400_000)) wrong(`--${name} ${options[name]}: must be a number of seconds from 0.1 to 86400`);
  return ms;
});

// As it is written: an address of IPv6 keeps its brackets in the endpoint.
const [, host, port] = /^(\[[^\]]+\]|[^:[\]]+):(\d{1,5})$/.exec(options.listen) ?? [];
if (!(Number(port) <= 65_535)) wrong(`--listen ${options.listen}: must be HOST:PORT, such as 127.0.0.1:7000 or [::1]:7000`);
if (Boolean(options["tls-cert"]) !== Boolean(options["tls-key"])) {
  wrong("a certificate and its key belong together: give --tls-cert and --tls-key");
}
if (options["tls-client-ca"] && !options["tls-cert"]) {
  wrong("--tls-client-ca is for a server with TLS: give --tls-cert and --tls-key");
}

const isOpen = isReadable(options.coordinator) && !options["coordinator-insecure"];
if (isOpen && options["token-file"]) {
  wrong("--token-file would be read on the way: --coordinator must be https://, or --coordinator-insecure allow it");
}
if (isOpen) {
  console.error(`${options.coordinator} is on another machine and without TLS: whoever is on the way can read and change all`);
}

const barrier = new Barrier(options.file);
for (const [name, pieces] of items) addItem(barrier, name, pieces);
const participant = new Participant(options.name, barrier, ACTIONS);

// Answers one request: below `/tx` there are the three calls, and `/stock` is for people.
async function answer(request) {
  accept(request.headers.authorization);
  if (request.url === "/stock" && request.method === "GET") return stock();
  const call = /^\/tx\/(prepare|commit|cancel)$/.exec(request.url)?.[1];
  if (!call) throw new NoAnswer(404, "UNIMPLEMENTED", "there are /tx/prepare, /tx/commit and /tx/cancel");
  if (request.method !== "POST") throw new NoAnswer(405, "UNIMPLEMENTED", "must be a POST");
  if (!/^application\/json *(;|$)/i.test(request.headers["content-type"] ?? "")) {
    throw new NoAnswer(415, "UNIMPLEMENTED", "content-type must be application/json");
  }
  const body = await read(request);
  let message;
  try {
    message = JSON.parse(body);
  } catch {
    // The message of JSON.parse quotes the body.
    throw new NoAnswer(400, "INVALID_ARGUMENT", "the body must be JSON");
  }
  return participant.answer(call, message ?? {});
}

// Items and sales by their names, without what else is stored.
function stock() {
  const below = (prefix) => {
    const of = [...barrier.values].filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(of.map(([name, value]) => [name.slice(prefix.length), value]));
  };
  return { items: below("stock/"), sales: below("sale/") };
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

function read(request) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    let bytes = 0;
    const take = (chunk) => {
      bytes += chunk.length;
      if (bytes <= BODY_BYTES_MAX) return chunks.push(chunk);
      request.off("data", take);
      request.pause();
      reject(new NoAnswer(413, "RESOURCE_EXHAUSTED", `the body has more than ${BODY_BYTES_MAX} bytes`));
    };
    request.on("data", take);
    request.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
    request.on("error", reject);
  });
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
  const text = JSON.stringify(body);
  if (status !== 413) {
    response.writeHead(status, { "content-type": type });
    response.end(text);
    return;
  }
  // To close a connection with bytes that nobody has read would lose the answer.
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(text), connection: "close" });
  response.write(text);
  const timer = setTimeout(() => response.end(), DISCARD_MS);
  request.once("close", () => {
    clearTimeout(timer);
    response.end();
  });
  request.resume();
}

function tlsOptions() {
  const [cert, key, ca] = ["tls-cert", "tls-key", "tls-client-ca"].map((name) => options[name] && fs.readFileSync(options[name]));
  return { cert, key, ca, requestCert: Boolean(ca), rejectUnauthorized: Boolean(ca) };
}

const isTls = Boolean(options["tls-cert"]);
const server = isTls ? https.createServer(tlsOptions(), serve) : http.createServer(serve);
// Longer than a coordinator keeps a connection without a call.
server.keepAliveTimeout = 15_000;
// A port that is taken, or a host that is none of this machine.
server.once("error", (error) => wrong(`--listen ${options.listen}: ${error.message}`));
server.listen(Number(port), host.replace(/^\[|\]$/g, ""), () => {
  const scheme = isTls ? "https+json" : "http+json";
  const endpoint = options.advertise ?? `${scheme}://${host}:${server.address().port}/tx`;
  const tokenFile = options["token-file"];
  const coordinator = new Coordinator({
    url: options.coordinator,
    name: options.name,
    endpoint,
    token: tokenFile && fs.readFileSync(tokenFile, "utf8").trim(),
    barrier,
    sweepMs,
    graceMs,
  });
  coordinator.start();
  if (!isLoopback(host)) {
    if (!isTls) console.error(`other machines can reach ${host}, which has no TLS: whoever is on the way can read and change calls`);
    if (!options["tls-client-ca"] && !options["accept-tokens"]) {
      console.error(`other machines can reach ${host}, and every caller is heard: whoever reaches it can commit`);
    }
  }
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
