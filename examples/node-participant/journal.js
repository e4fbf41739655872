// A file of records that survives a crash at any moment: each is written and flushed to the disk before its effect can be
// seen. Take this file along: it knows nothing of transactions.

import crypto from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

// After a failed write nobody knows what the disk holds. The next start reads it.
const EXIT_CODE = 70;

export class Journal {
  // Opens the file, and hands each record that is there to `apply`.
  constructor(file, apply) {
    this.unlock = lock(`${file}.lock`);
    this.fd = fs.openSync(file, "a+");
    // A former process may have made the file, and ended before this.
    flushFolder(path.dirname(path.resolve(file)));
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
    const text = JSON.stringify(record);
    try {
      const line = Buffer.from(`${checksum(text)} ${text}\n`);
      for (let at = 0; at < line.length; ) at += fs.writeSync(this.fd, line, at);
      fs.fsyncSync(this.fd);
    } catch (error) {
      console.error(`journal cannot be written: ${error.message}`);
      process.exit(EXIT_CODE);
    }
    // What was written, as the next start reads it.
    this.apply(JSON.parse(text));
  }

  // Where the file is: a copy of it is another one.
  place() {
    const { dev, ino } = fs.fstatSync(this.fd, { bigint: true });
    return `file.${dev}.${ino}`;
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
    if (newline < 0) {
      // Each record is on the disk before the next is begun, so the last one alone can be there in part.
      console.error(`${file}: the last record, of ${content.length - end} bytes at byte ${end}, is there in part and is cut off`);
      break;
    }
    // A whole line may be a vote that was answered.
    if (sum !== checksum(text)) throw new Error(`${file} is damaged at byte ${end}: a whole record has a wrong checksum`);
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
  const own = identity();
  for (let attempt = 0; ; attempt += 1) {
    if (create(file, own)) {
      return () => {
        if (contentOf(file) === own) fs.rmSync(file, { force: true });
      };
    }
    const found = contentOf(file);
    // Removed in this moment.
    if (found === undefined) continue;
    const [host, pid, boot, start] = found.split(" ");
    if (host !== os.hostname() || !(Number(pid) > 0)) {
      throw new Error(`the lock ${file} is not of this host; if no process there uses the journal, remove it`);
    }
    if (!isAlive(Number(pid), boot, start)) removeStale(file, found);
    else if (attempt < 50) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    else throw new Error(`process ${pid} uses the journal; if that is another program, remove ${file}`);
  }
}

// Host, pid, boot and start of this process: a pid alone comes again, in a container at each start.
function identity() {
  return [os.hostname(), process.pid, bootId(), statOf(process.pid)?.start ?? "-"].join(" ");
}

// Creates the lock as a whole, so that nobody sees an empty one; false if there is one.
function create(file, content) {
  const temporary = `${file}.${crypto.randomUUID()}`;
  try {
    fs.writeFileSync(temporary, content, { flag: "wx" });
    fs.linkSync(temporary, file);
    return true;
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
    return false;
  } finally {
    fs.rmSync(temporary, { force: true });
  }
}

// Takes the lock away under a name of one's own: of two that see the same stale one, one alone succeeds. The other may get
// the new lock of the first, and puts it back.
function removeStale(file, found) {
  const taken = `${file}.${crypto.randomUUID()}`;
  try {
    fs.renameSync(file, taken);
  } catch (error) {
    if (error.code === "ENOENT") return;
    throw error;
  }
  if (contentOf(taken) !== found) fs.linkSync(taken, file);
  fs.rmSync(taken);
}

function contentOf(file) {
  try {
    return fs.readFileSync(file, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

function isAlive(pid, boot, start) {
  if (boot !== bootId()) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (error.code !== "EPERM") return false;
  }
  const stat = statOf(pid);
  // Without /proc the pid has to be enough.
  if (!stat) return true;
  // One that has ended is still there until its parent looks.
  return stat.state !== "Z" && stat.start === start;
}

function bootId() {
  return contentOf("/proc/sys/kernel/random/boot_id")?.trim() ?? "-";
}

// State and time of start, which are behind the name in parentheses; on Linux alone.
function statOf(pid) {
  const stat = contentOf(`/proc/${pid}/stat`);
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields && { state: fields[0], start: fields[19] };
}
