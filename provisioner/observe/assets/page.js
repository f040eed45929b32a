"use strict";
// Keeps the page up to date: the server sends the main part anew whenever it has changed, and what differs is put in
// place, so that focus, selection and scroll positions stay where they are.
(() => {
  const QUIET = 30000; // milliseconds between two announcements of mere progress
  const AGAIN = 5000; // milliseconds until a connection that was refused is tried again
  const main = document.getElementById("main");
  const link = document.getElementById("link");
  const hold = document.getElementById("hold");
  const news = document.getElementById("news");
  let held = false;
  let waiting = null;
  let said = "";
  let saidAt = 0;

  const date = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
  const today = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const instant = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const form = (time, moment) => {
    const now = moment.toDateString() === new Date().toDateString();
    if (time.className === "clock" || (now && time.className === "instant")) return clock;
    if (time.className === "instant") return instant;
    return now ? today : date;
  };
  const localise = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(time.dateTime);
      if (Number.isNaN(moment.getTime())) continue;
      time.textContent = form(time, moment).format(moment);
    }
  };

  const same = (old, next) => old.nodeType === next.nodeType && old.nodeName === next.nodeName;

  // White space between elements counts for nothing: a line more or less must not put everything after it out of step.
  const children = (node) => [...node.childNodes].filter((child) => child.nodeType !== Node.TEXT_NODE || child.data.trim());

  const morph = (old, next) => {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) return;
    for (const { name, value } of next.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      const opened = old.nodeName === "DETAILS" && name === "open"; // by the reader
      if (!next.hasAttribute(name) && !opened) old.removeAttribute(name);
    }
    const [there, fresh] = [children(old), children(next)];
    fresh.forEach((child, at) => {
      if (!there[at]) old.append(child);
      else if (same(there[at], child)) morph(there[at], child);
      else there[at].replaceWith(child);
    });
    there.slice(fresh.length).forEach((child) => child.remove());
  };

  // Trouble is announced at once, progress now and then: nobody wants to hear a number every second.
  const announce = () => {
    const summary = main.querySelector("[data-news]");
    if (!summary) return;
    const [urgent, text] = [summary.dataset.urgent, summary.dataset.news];
    if (urgent === said && Date.now() - saidAt < QUIET) return;
    if (news.textContent !== text) news.textContent = text;
    said = urgent;
    saidAt = Date.now();
  };

  const show = (text) => {
    const parsed = new DOMParser().parseFromString(`<main id="main" tabindex="-1">${text}</main>`, "text/html");
    const next = parsed.getElementById("main");
    localise(next);
    morph(main, next);
    const title = main.querySelector("[data-title]");
    if (title) document.title = title.dataset.title;
    announce();
  };

  const listenToHold = () => hold.addEventListener("click", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    if (!held && waiting !== null) show(waiting);
    waiting = null;
  });

  // A command can be copied where the browser lets a page do that.
  const offerCopies = () => {
    if (!navigator.clipboard) return;
    for (const button of document.querySelectorAll("button[data-copy]")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        button.textContent = "Copied";
        news.textContent = "Copied";
      });
    }
  };

  const listen = () => {
    const source = new EventSource("events");
    source.addEventListener("open", () => { link.textContent = "Live"; });
    source.addEventListener("look", (event) => {
      if (held) waiting = event.data;
      else show(event.data);
    });
    source.addEventListener("error", () => {
      link.textContent = "Not connected: what you see is old";
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
    });
  };

  localise(document);
  offerCopies();
  if ("live" in main.dataset) {
    document.getElementById("live").hidden = false;
    listenToHold();
    listen();
  }
})();
