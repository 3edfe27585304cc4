"""Feeds, the calendar and Statuspage's JSON, read by the libraries that others read them with."""

import html.parser
import json
import xml.etree.ElementTree

import feedparser
import icalendar

from browser import ensure

COMPONENT = {
    "id", "name", "status", "created_at", "updated_at", "position", "description", "showcase",
    "start_date", "group_id", "page_id", "group", "only_show_if_degraded",
}
INCIDENT = {
    "id", "name", "status", "created_at", "updated_at", "monitoring_at", "resolved_at", "impact",
    "shortlink", "started_at", "page_id", "incident_updates", "components",
}
UPDATE = {
    "id", "status", "body", "incident_id", "created_at", "updated_at", "display_at",
    "affected_components",
}
DOCUMENTS = {
    "summary.json": {"page", "components", "incidents", "scheduled_maintenances", "status"},
    "status.json": {"page", "status"},
    "components.json": {"page", "components"},
    "incidents.json": {"page", "incidents"},
    "incidents/unresolved.json": {"page", "incidents"},
    "scheduled-maintenances.json": {"page", "scheduled_maintenances"},
    "scheduled-maintenances/upcoming.json": {"page", "scheduled_maintenances"},
    "scheduled-maintenances/active.json": {"page", "scheduled_maintenances"},
}
ATOM = "{http://www.w3.org/2005/Atom}"


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)


def feeds(system):
    for path in ("/feed.atom", "/feed.atom?region=Region+1", "/feed.atom?component=1", "/rss/"):
        status, _, text = system.get(path)
        ensure(status == 200, f"{path} is answered {status}")
        feed = feedparser.parse(text)
        ensure(not feed.bozo, f"{path}: {feed.get('bozo_exception')}")
        ensure(feed.entries, f"{path} has no entries")
        ids = [entry.id for entry in feed.entries]
        ensure(len(ids) == len(set(ids)), f"{path}: ids are not unique")
        for entry in feed.entries:
            ensure(entry.link.startswith(system.url + "/incidents/"), f"{path}: {entry.link}")
    # feedparser cleans texts, so that they are looked at as they came.
    for entry in xml.etree.ElementTree.fromstring(system.get("/feed.atom")[2]).iter(ATOM + "entry"):
        tags = Tags(entry.find(ATOM + "content").text)
        ensure(tags.found <= {"p", "strong", "a", "time", "span"}, f"a feed has {tags.found}")
    titles = [entry.title for entry in feedparser.parse(system.get("/feed.atom")[2]).entries]
    ensure(any("WWW" in title for title in titles), f"a hostile title is missing: {titles}")


def calendar(system, hostile):
    status, headers, text = system.get("/maintenance.ics")
    ensure(status == 200 and headers["Content-Type"].startswith("text/calendar"), "the calendar")
    events = icalendar.Calendar.from_ical(text).walk("VEVENT")
    ensure(len(events) == len(hostile) + 1, f"{len(events)} events are in the calendar")
    ensure(len({str(event["UID"]) for event in events}) == len(events), "UIDs are not unique")
    for event in events:
        ensure(event.decoded("DTEND") > event.decoded("DTSTART"), "it ends before it begins")
        ensure(int(event["SEQUENCE"]) >= 0 and event["DTSTAMP"], "a property is missing")
    summaries = [str(event["SUMMARY"]) for event in events]
    ensure("New switches" in summaries and hostile[0] in summaries, f"{summaries}")
    ensure(all("\u202e" not in summary for summary in summaries), "a summary turns what follows")


def statuspage(system):
    for document, keys in DOCUMENTS.items():
        status, headers, text = system.get("/api/v2/" + document)
        ensure(status == 200 and headers["Access-Control-Allow-Origin"] == "*", document)
        found = json.loads(text)
        ensure(set(found) == keys, f"{document} has {set(found)}")
        for component in found.get("components", []):
            ensure(COMPONENT <= set(component), f"{document}: {component}")
        events = found.get("incidents", []) + found.get("scheduled_maintenances", [])
        for event in events:
            ensure(INCIDENT <= set(event) and isinstance(event["id"], str), f"{document}: {event}")
            ensure(all(UPDATE == set(update) for update in event["incident_updates"]), document)
    summary = json.loads(system.get("/api/v2/summary.json")[2])
    ensure(summary["status"]["indicator"] == "critical", f"{summary['status']}")
    groups = [component for component in summary["components"] if component["group"]]
    ids = {component["id"] for component in summary["components"]}
    ensure(groups and all(set(group["components"]) <= ids for group in groups), f"{groups}")


def badges(system):
    for path in ("/badge.svg", "/badge/components/1.svg"):
        status, headers, text = system.get(path)
        ensure(status == 200 and headers["Content-Type"] == "image/svg+xml", path)
        picture = xml.etree.ElementTree.fromstring(text)
        ensure(picture.tag.endswith("svg") and ("Outage" in text or "problem" in text), text)


def formats(system, hostile):
    feeds(system)
    calendar(system, hostile)
    statuspage(system)
    badges(system)
