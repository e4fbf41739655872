"use strict";
// Brings the page up to date: at each change of what it watches, or every few seconds. Without this script the page is
// as it was when it was asked for.
(() => {
  const main = document.querySelector("main");
  let busy = false;
  const renew = async () => {
    const reading = main.contains(document.activeElement) && document.activeElement !== main;
    if (busy || document.hidden || reading || String(getSelection()) !== "") return;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const opened = new Set([...main.querySelectorAll("details")].flatMap((d, n) => (d.open ? [n] : [])));
      main.replaceChildren(...page.querySelector("main").childNodes);
      main.querySelectorAll("details").forEach((d, n) => { if (opened.has(n)) d.open = true; });
    } catch {
      // The coordinator is away; the next turn asks again.
    } finally {
      busy = false;
    }
  };
  if (main.dataset.every) setInterval(renew, Number(main.dataset.every));
  if (main.dataset.watch) {
    const events = new EventSource(main.dataset.watch);
    events.addEventListener("state", renew);
    events.addEventListener("end", () => { events.close(); renew(); });
  }
})();
