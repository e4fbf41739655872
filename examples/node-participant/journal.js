// A file of records that survives a crash at any moment: each is written and flushed to the disk before its effect can be
// seen. Take this file along: it knows nothing of transactions.

import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";

// After a failed write nobody knows what the disk holds. The next start reads it.
const EXIT_CODE = 70;

export class Journal {
  // Opens the file, and hands each record that is there to `apply`.
  constructor(file, apply) {
    this.unlock = lock(`${file}.lock`);
    const isNew = !fs.existsSync(file);
    this.fd = fs.openSync(file, "a+");
    if (isNew) flushFolder(path.dirname(path.resolve(file)));
    this.apply = apply;
    const { records, end } = read(file);
    // The last write of a process that was killed may be there in part: nobody has heard of it.
    fs.ftruncateSync(this.fd, end);
    // It may also be there as a whole, and not on the disk: nobody must hear of it before.
    fs.fsyncSync(this.fd);
    records.forEach(apply);
  }

  // Makes a record durable, and then applies it. There is no way back: on an error the process ends.
  write(record) {
    try {
      const text = JSON.stringify(record);
      const line = Buffer.from(`${checksum(text)} ${text}\n`);
      for (let at = 0; at < line.length; ) at += fs.writeSync(this.fd, line, at);
      fs.fsyncSync(this.fd);
    } catch (error) {
      console.error(`journal cannot be written: ${error.message}`);
      process.exit(EXIT_CODE);
    }
    this.apply(record);
  }

  close() {
    fs.closeSync(this.fd);
    this.unlock();
  }
}

function checksum(text) {
  return crypto.createHash("sha256").update(text).digest("hex").slice(0, 16);
}

// Returns the records, and the length of the file up to the end of the last whole one.
function read(file) {
  const content = fs.readFileSync(file);
  const records = [];
  let end = 0;
  while (end < content.length) {
    const newline = content.indexOf(10, end);
    const line = content.subarray(end, newline < 0 ? content.length : newline).toString();
    const [sum, text] = [line.slice(0, 16), line.slice(17)];
    const isLast = newline < 0 || newline === content.length - 1;
    if (newline < 0 || sum !== checksum(text)) {
      // Each record is on the disk before the next is begun, so the last one alone can be there in part.
      if (!isLast) throw new Error(`${file} is damaged at byte ${end}`);
      break;
    }
    records.push(JSON.parse(text));
    end = newline + 1;
  }
  return { records, end };
}

function flushFolder(folder) {
  const fd = fs.openSync(folder, "r");
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

// Two processes on one file would not see each other's rows. A former one may take a moment to end.
function lock(file) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      fs.writeFileSync(file, String(process.pid), { flag: "wx" });
      return () => fs.rmSync(file, { force: true });
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    const pid = Number(fs.readFileSync(file, "utf8"));
    if (pid === process.pid || !isAlive(pid)) fs.rmSync(file, { force: true });
    else if (attempt < 50) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    else throw new Error(`process ${pid} uses the file; if that is another program, remove ${file}`);
  }
}

function isAlive(pid) {
  if (!(pid > 0)) return false;
  try {
    process.kill(pid, 0);
    // One that has ended is still there until its parent looks: on Linux this file tells.
    const stat = `/proc/${pid}/stat`;
    return !fs.existsSync(stat) || !fs.readFileSync(stat, "utf8").includes(") Z ");
  } catch (error) {
    return error.code === "EPERM";
  }
}
