"use strict";
// Brings the page up to date: at each change of what it watches, or every few seconds. What comes while the page is not
// looked at, is being read or is being brought up to date is wanted until it is done. Without this script the page is as it
// was when it was asked for.
(() => {
  const main = document.querySelector("main");
  const away = document.getElementById("away");
  // Longest time for an answer, between two attempts, and between one answer and the next request.
  const PATIENCE = 15000, PAUSE = 3000, BREATH = 300;
  // Between two looks at what is followed: attempts and ages change without an event.
  const LOOK = 10000;
  let every = Number(main.dataset.every) || 0;
  if (!every && !main.dataset.watch) return;
  let wanted = false, busy = false, events = null, isOver = false;
  let watch = main.dataset.watch;

  // Details are open as the coordinator gives them, unless the reader has chosen otherwise.
  const given = new Map(), chosen = new Map();
  const details = () => [...main.querySelectorAll("details[data-key]")];
  // What the reader has filled in, chosen or ticked stays, too.
  const fields = () => [...main.querySelectorAll("input[name]:not([type=hidden]), select[name], textarea[name]")];
  const value = (f) => (f.type === "checkbox" ? f.checked : f.value);
  const initial = (f) => {
    if (f.type === "checkbox") return f.defaultChecked;
    if (f.options) return ([...f.options].find((o) => o.defaultSelected) ?? f.options[0])?.value;
    return f.defaultValue;
  };
  const fill = (f, to) => {
    if (f.type === "checkbox") f.checked = to;
    else f.value = to;
  };
  // So does the place to which a wide table or a long text is scrolled. Each has its name, or that of its part.
  const scrolled = () => [...main.querySelectorAll(".wide, pre")];
  const nameOf = (e) => [
    e.getAttribute("aria-label"),
    e.closest("[aria-labelledby]")?.getAttribute("aria-labelledby"),
    e.closest("[data-key]")?.dataset.key,
    e.tagName === "PRE" ? e.previousElementSibling?.textContent : "",
  ].join("\n");
  const note = () => details().forEach((d) => given.set(d.dataset.key, d.open));
  const show = (page) => {
    for (const d of details()) {
      if (d.open === given.get(d.dataset.key)) chosen.delete(d.dataset.key);
      else chosen.set(d.dataset.key, d.open);
    }
    const filled = new Map(), places = new Map();
    for (const f of fields()) if (value(f) !== initial(f)) filled.set(f.name, value(f));
    for (const e of scrolled()) if (e.scrollLeft || e.scrollTop) places.set(nameOf(e), [e.scrollLeft, e.scrollTop]);
    main.replaceChildren(...page.childNodes);
    for (const f of fields()) if (filled.has(f.name)) fill(f, filled.get(f.name));
    note();
    for (const d of details()) if (chosen.has(d.dataset.key)) d.open = chosen.get(d.dataset.key);
    for (const e of scrolled()) if (places.has(nameOf(e))) [e.scrollLeft, e.scrollTop] = places.get(nameOf(e));
  };

  // A list stays where it is. Its rows change in their places, and how many have come since is said above them, and in
  // the title: a click shows them.
  const title = document.title;
  const isList = () => main.dataset.newer !== undefined && main.querySelector("tbody") !== null;
  const rows = (of) => [...of.querySelectorAll("tbody tr")].map((row) => [row.querySelector("a").getAttribute("href"), row]);
  const merge = (page) => {
    const now = rows(page), known = new Map(rows(main)), left = new Map(known);
    const first = now.findIndex(([href]) => known.has(href));
    const count = first < 0 ? now.length : first;
    // Those below the last row that is still there may be on the next page.
    const last = [...known.keys()].findLastIndex((href) => now.some(([other]) => other === href));
    for (const href of [...known.keys()].slice(last + 1)) left.delete(href);
    const anchor = [...known.values()].find((row) => row.getBoundingClientRect().bottom > 0);
    const top = anchor?.getBoundingClientRect().top;
    for (const [href, row] of now) {
      left.delete(href);
      const old = known.get(href);
      if (!old || String(getSelection()) !== "") continue;
      old.className = row.className;
      [...row.cells].forEach((cell, at) => {
        if (at > 0 && old.cells[at].innerHTML !== cell.innerHTML) old.cells[at].replaceChildren(...cell.childNodes);
      });
    }
    // What has grown above moves nothing below.
    if (anchor) scrollBy(0, anchor.getBoundingClientRect().top - top);
    const parts = [];
    if (count) parts.push(`${count}${first < 0 ? " or more" : ""} newer`);
    if (left.size) parts.push(`${left.size} shown that ${left.size > 1 ? "match" : "matches"} no more`);
    const text = parts.join(", ");
    document.title = count ? `(${count}) ${title}` : title;
    const line = document.getElementById("newer");
    if ((line.firstChild?.textContent ?? "") === text) return;
    line.replaceChildren();
    if (!text) return;
    line.append(Object.assign(document.createElement("a"), { href: location.href, textContent: text }));
  };

  const isRead = () => {
    const focus = document.activeElement;
    return (focus !== main && main.contains(focus)) || String(getSelection()) !== "";
  };

  const renew = async () => {
    if (!wanted || busy || document.hidden || (isRead() && !isList())) return;
    busy = true;
    wanted = false;
    let done = false;
    try {
      const headers = { accept: "text/html" };
      const answer = await fetch(location.href, { headers, signal: AbortSignal.timeout(PATIENCE) });
      const text = await answer.text();
      const page = new DOMParser().parseFromString(text, "text/html").querySelector("main");
      if (isList()) {
        if (!answer.ok) throw new Error(`${answer.status}`);
        merge(page);
        away.hidden = true;
        done = true;
        return;
      }
      // Somebody may have begun to read meanwhile.
      if (isRead()) {
        wanted = true;
        return;
      }
      // A problem, such as a standby's, passes: what is watched stays the same.
      if (answer.ok && !every) {
        watch = page.dataset.watch;
        isOver = false;
        follow();
      }
      // An act that has ended changes no more.
      if (answer.ok && every) every = Number(page.dataset.every) || 0;
      if (!answer.ok) wanted = true;
      show(page);
      away.hidden = true;
      done = answer.ok;
    } catch {
      wanted = true;
      if (away.hidden) {
        away.textContent = `No answer since ${new Date().toISOString().slice(11, 19)} UTC: the page is as it was then.`;
        away.hidden = false;
      }
    } finally {
      setTimeout(() => {
        busy = false;
        if (done) renew();
      }, BREATH);
    }
  };
  const want = () => {
    wanted = true;
    renew();
  };

  // A page that is not seen leaves its connection to others: browsers have six for each coordinator.
  const unfollow = () => {
    events?.close();
    events = null;
  };
  const follow = () => {
    if (events?.readyState === EventSource.CLOSED) {
      events = null;
      wanted = true;
    }
    if (!watch) unfollow();
    if (!watch || isOver || events || document.hidden) return;
    events = new EventSource(watch);
    events.addEventListener("state", want);
    // The transaction has ended, or the coordinator stops: the page tells which.
    events.addEventListener("end", () => {
      isOver = true;
      unfollow();
      want();
    });
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      unfollow();
      return;
    }
    wanted = true;
    follow();
    renew();
  });
  main.addEventListener("focusout", () => setTimeout(renew));
  document.addEventListener("selectionchange", renew);
  let looked = Date.now();
  setInterval(() => {
    if (every || (watch && !isOver && Date.now() - looked >= LOOK)) {
      looked = Date.now();
      wanted = true;
    }
    follow();
    renew();
  }, every || PAUSE);
  note();
  follow();
})();
