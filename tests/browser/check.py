"""Looks at the pages in Chromium, and reads the feeds with the libraries that others read them with."""

import html.parser
import os
import sys
import urllib.parse

from browser import Browser, Failed, ensure, eventually
from formats import formats
from system import System

# Each would run, or turn what follows it, if it were taken for markup.
HOSTILE = [
    "<script>window.hostile = 1</script><img src=x onerror='window.hostile = 1'>",
    "\"'><svg onload=window.hostile=1></bdi></main></body><!-- {{ 7 * 7 }} ]]> &amp; &lt;b&gt;",
    "\u202etxet desrever\u202d\u2066 شبكة الاتصال \u200f",
    ("W" * 120 + "ä漢🔥" * 60)[:255],
]
SIZES = {"phone": (320, 800), "desktop": (1280, 900), "wide": (3840, 2160)}


class Links(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.found.add(value)


def look(browser, path, name, says):
    """A page in all sizes, light and dark."""
    browser.open(path)
    # A page may be a second old; then it follows.
    eventually(f"{name} says {says!r}", lambda: says in browser.text("h1"))
    browser.nothing_inline(name)
    for size, (width, height) in SIZES.items():
        for dark in (False, True):
            browser.size(width, height, dark)
            where = f"{name}-{size}{'-dark' if dark else ''}"
            browser.fits(where)
            browser.screenshot(where)
            # Contrast depends on the colours, the rest hardly on the size.
            if size != "wide":
                browser.accessible(where)
    browser.size(1280, 900)
    browser.no_complaints(name)


def links_lead_somewhere(system, paths):
    """Follows every link of these pages, and those of the pages behind them."""
    seen, waiting = set(), [(path, 1) for path in paths]
    while waiting:
        path, depth = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        status, headers, text = system.get(path)
        ensure(status == 200, f"a link to {path} is answered {status}")
        if depth == 0 or "text/html" not in headers["Content-Type"] or path == "/api-docs":
            continue
        for link in Links(text).found:
            if link.startswith("#"):
                ensure(f'id="{link[1:]}"' in text, f"{path}: there is no {link}")
                continue
            target = urllib.parse.urljoin(system.url + path, link)
            if target.startswith(system.url):
                waiting.append((target[len(system.url) :].partition("#")[0], depth - 1))
    ensure(len(seen) > 15, f"only {len(seen)} links were found")
    return len(seen)


def follows(system, browser):
    """The page shows an update without being loaded again."""
    browser.open("/")
    browser.driver.execute_script("window.mark = 1")
    ensure("All components are operational" in browser.text("h1"), browser.text("h1"))
    system.update("Object Storage", "Region 1", "outage")
    seconds = eventually(
        "the page shows the outage", lambda: browser.text("h1") == "Outage of 1 component"
    )
    system.update("Object Storage", "Region 1", "ok")
    eventually("and its end", lambda: "All components" in browser.text("h1"))
    ensure(browser.driver.execute_script("return window.mark") == 1, "it was loaded again")
    browser.no_complaints("a page that follows")
    print(f"browser: an update shows after {seconds:.1f} s", file=sys.stderr)


def storm(system):
    """Every component fails, and people comment."""
    for component in system.components():
        region = component["attributes"][0]["value"]
        impact = ["minor", "major", "outage"][component["id"] % 3]
        system.update(component["name"], region, impact)
    system.operator(
        "maintenance", "schedule", "--start", "2099-01-01 10:00", "--end", "2099-01-01 12:00",
        "--title", "New switches", "--component", "Kubernetes (region=Region 1)",
    )


def hostile(system):
    for text in HOSTILE:
        quoted = text.replace("'", "''")
        system.sql(
            f"""WITH opened AS (
                INSERT INTO incident (text, start_date, impact, system)
                VALUES ('{quoted}', now() AT TIME ZONE 'UTC' - interval '1 minute', 2, false)
                RETURNING id
            ), related AS (
                INSERT INTO incident_component_relation SELECT id, 1 FROM opened
            ), planned AS (
                INSERT INTO incident (text, start_date, end_date, impact, system)
                VALUES ('{quoted}', '2098-01-01', '2098-01-02', 0, false)
            )
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            SELECT id, now() AT TIME ZONE 'UTC', '{quoted}', '{quoted}' FROM opened"""
        )


def thousand(system):
    system.sql(
        """WITH old AS (
            INSERT INTO incident (text, start_date, end_date, impact, system)
            SELECT 'Incident ' || n, at, at + interval '20 minutes', 1 + n % 3, n % 2 = 0
            FROM generate_series(1, 1000) AS n,
                LATERAL (SELECT now() AT TIME ZONE 'UTC' - n * interval '2 hours' AS at) AS times
            RETURNING id
        ), related AS (
            INSERT INTO incident_component_relation SELECT id, 1 + id % 10 FROM old
        )
        INSERT INTO incident_status (incident_id, timestamp, text, status)
        SELECT id, now() AT TIME ZONE 'UTC', 'It works again', 'resolved' FROM old"""
    )


# What a page says, without what changes every minute by itself: page.js has it so, too.
CONTENT = """
    for (const time of document.querySelectorAll(".as-of, .duration")) time.remove();
    return document.querySelector("main").innerText"""


def content(browser, path):
    browser.open(path)
    return browser.driver.execute_script(CONTENT)


def same_without_script(system, browser, folder):
    without = Browser(system.url, folder, script=False)

    def is_same(path):
        before, found, after = (content(one, path) for one in (without, browser, without))
        # The uptime changes with a minute, too: then this says nothing.
        ensure(before != after or found == before, f"{path} is another page without JavaScript")
        return before == after

    try:
        for path in ("/", "/components/1", "/history"):
            eventually(f"{path} stays the same", lambda: is_same(path))
    finally:
        without.close()


def check(folder):
    system = System()
    browser = Browser(system.url, folder)
    try:
        look(browser, "/", "empty", "All components are operational")
        follows(system, browser)
        storm(system)
        look(browser, "/", "storm", "Outage of 4 components")
        names = browser.names(".catalogue .state a")
        ensure(len(names) == len(set(names)) == len(system.components()), f"components are called {names}")
        ensure("Object Storage, Region 1: " in " ".join(names), f"components are called {names}")
        look(browser, "/?region=Region+1", "region", "Outage of")
        look(browser, "/components/1", "component", "Object Storage (Region 1)")
        hostile(system)
        eventually("the hostile ones show", lambda: "switches" in system.get("/")[2])
        look(browser, "/", "hostile", "Outage of 4 components")
        ensure(browser.driver.execute_script("return window.hostile") is None, "a text was run")
        thousand(system)
        look(browser, "/history", "history", "20")
        look(browser, "/", "thousand", "Outage of 4 components")
        ensure("Nothing was reported" not in browser.text("main"), "days that were cut off are empty")
        look(browser, "/incidents/1", "incident", "Requests fail")
        same_without_script(system, browser, folder)
        count = links_lead_somewhere(system, ["/", "/history", "/components/1", "/incidents/1"])
        print(f"browser: {count} links lead somewhere", file=sys.stderr)
        formats(system, HOSTILE)
    finally:
        browser.close()


if __name__ == "__main__":
    try:
        check(sys.argv[1])
    except Failed as failed:
        print(f"browser: {failed}", file=sys.stderr)
        sys.exit(1)
    print("browser: all is well", file=sys.stderr)
