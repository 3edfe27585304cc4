// Shows times in the reader's zone, and keeps the page up to date. The page works without it.
"use strict";
{
  const root = document.documentElement;
  const base = root.dataset.base;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  let isLocal = false;

  const two = (number) => String(number).padStart(2, "0");
  const local = (at) =>
    `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;

  const showTimes = () => {
    for (const time of document.querySelectorAll("time[datetime*=T]")) {
      time.dataset.utc ??= time.textContent;
      const inZone = local(new Date(time.dateTime));
      time.textContent = isLocal ? inZone : time.dataset.utc;
      time.title = isLocal ? time.dataset.utc : `${inZone} ${zone}`;
    }
    for (const place of document.querySelectorAll("[data-zone]")) {
      place.textContent = isLocal ? zone : "UTC";
    }
    for (const button of document.querySelectorAll("[data-zone-button]")) {
      button.hidden = false;
      button.textContent = isLocal ? "Show UTC" : "Show my time";
    }
  };

  // What a page says, without what changes every minute by itself.
  const content = (page) => {
    const main = page.querySelector("main").cloneNode(true);
    for (const time of main.querySelectorAll(".as-of, .duration")) time.remove();
    return main.innerHTML;
  };
  let shown = content(document);

  const show = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    if (!fresh.documentElement.dataset.version) return;
    const [before, now] = [document, fresh].map((page) => page.querySelector("h1").textContent.trim());
    // A selection, or the place that somebody reads, is kept if nothing has changed.
    const isNews = shown !== (shown = content(fresh));
    const focused = document.activeElement?.getAttribute("href");
    if (isNews) document.querySelector("main").replaceChildren(...fresh.querySelector("main").childNodes);
    const running = isNews ? "footer .as-of > time" : ".as-of > time, .duration";
    const places = fresh.querySelectorAll(running);
    document.querySelectorAll(running).forEach((place, n) => {
      if (places[n]) place.replaceWith(places[n]);
    });
    if (isNews && focused) {
      document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
    document.title = fresh.title;
    root.dataset.version = fresh.documentElement.dataset.version;
    if (now !== before) document.querySelector("[data-news]").textContent = now;
    showTimes();
  };

  let isLoading = false;
  let began = 0;
  let failures = 0;
  let wanted = null;
  let tries = 0;
  const load = async () => {
    if (isLoading) return;
    isLoading = true;
    began = Date.now();
    try {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(10_000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(await answer.text());
      if (failures > 1) document.querySelector("[data-old]").textContent = "";
      failures = 0;
    } catch {
      // The next event or the timer tries again. One failure is no news.
      failures += 1;
      if (failures === 2) {
        document.querySelector("[data-old]").textContent = "This page can't be refreshed now: it may be out of date.";
      }
    }
    isLoading = false;
    // More has changed meanwhile, or another gateway answers that is a second behind. One of another release never
    // has the same version.
    if (wanted && wanted !== root.dataset.version && tries-- > 0) loadLater();
  };
  // At most once a second, and not all readers at once.
  let timer = null;
  const loadLater = () => {
    timer ??= setTimeout(() => {
      timer = null;
      if (wanted !== root.dataset.version) load();
    }, Math.max(0, began + 1000 - Date.now()) + Math.random() * 300);
  };

  // Only while somebody looks: browsers have few connections to one host, and gateways few places.
  let events = null;
  const listen = () => {
    if (document.visibilityState !== "visible") {
      events?.close();
      events = null;
      return;
    }
    if (events && events.readyState !== EventSource.CLOSED) return;
    events = new EventSource(`${base}api/v1/live`);
    events.addEventListener("version", (event) => {
      wanted = event.data;
      tries = 3;
      loadLater();
    });
  };

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-zone-button]")) return;
    isLocal = !isLocal;
    showTimes();
  });
  showTimes();
  listen();
  const refresh = () => {
    listen();
    if (events) load();
  };
  document.addEventListener("visibilitychange", refresh);
  // Durations go on; and where there is no place for events, this is how news arrives.
  setInterval(refresh, 60_000);
}
