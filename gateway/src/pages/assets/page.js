// Shows times in the reader's zone, and keeps the page up to date. The page works without it.
"use strict";
{
  const base = document.documentElement.dataset.base || "/";
  const version = () => document.documentElement.dataset.version;
  let isLocal = false;

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  const pad = (number) => String(number).padStart(2, "0");

  const showTimes = () => {
    for (const time of document.querySelectorAll("time[datetime*=T]")) {
      time.dataset.utc ??= time.textContent;
      const at = new Date(time.dateTime);
      time.title = isLocal ? time.dataset.utc : at.toLocaleString();
      const date = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
      time.textContent = isLocal
        ? `${date} ${pad(at.getHours())}:${pad(at.getMinutes())}`
        : time.dataset.utc;
    }
    for (const place of document.querySelectorAll("[data-zone]")) {
      place.textContent = isLocal ? zone : "UTC";
    }
    const button = document.querySelector("[data-zone-button]");
    if (button) {
      button.hidden = false;
      button.textContent = isLocal ? "Show UTC" : "Show my time";
    }
  };

  // Replaces what has changed. The headline stays in place, so that screen readers announce its new text.
  const show = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    if (!fresh.documentElement.dataset.version) return;
    const focused = document.activeElement?.getAttribute?.("href");
    const status = document.querySelector("main [role=status]");
    const replacement = fresh.querySelector("main [role=status]");
    if (status && replacement) {
      const says = replacement.textContent;
      replacement.replaceWith(status);
      if (status.textContent !== says) status.replaceChildren(...replacement.childNodes);
    }
    for (const part of ["main", "footer"]) {
      document.querySelector(part).replaceChildren(...fresh.querySelector(part).childNodes);
    }
    const place = document.querySelector("main > .headline");
    if (place && status && !place.contains(status)) place.prepend(status);
    document.title = fresh.title;
    document.documentElement.dataset.version = fresh.documentElement.dataset.version;
    if (focused && !document.activeElement?.getAttribute?.("href")) {
      document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
    showTimes();
  };

  let isLoading = false;
  let wanted = null;
  const load = async () => {
    if (isLoading) return;
    isLoading = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) show(await answer.text());
    } catch {
      // The next event or the timer tries again.
    }
    isLoading = false;
    // Another gateway may be a second behind.
    if (wanted && wanted !== version()) {
      setTimeout(() => wanted && wanted !== version() && load(), 1000);
    }
  };

  let events = null;
  const listen = () => {
    if (events && events.readyState !== EventSource.CLOSED) return;
    events = new EventSource(`${base}api/v1/live`);
    events.addEventListener("version", (event) => {
      wanted = event.data;
      if (wanted !== version()) load();
    });
  };

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-zone-button]")) return;
    isLocal = !isLocal;
    showTimes();
  });
  showTimes();
  if (version()) {
    listen();
    // Durations go on, and where there is no place for events, this is how news arrives.
    setInterval(() => {
      if (document.visibilityState === "visible") load();
      listen();
    }, 60_000);
  }
}
