"""Feeds, the calendar and Statuspage's JSON, read by the programs and libraries that others read them with."""

import html.parser
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

import feedparser
import icalendar
import prometheus_client.parser

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
    texts = {}
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
        texts[path] = text
    # feedparser cleans texts, so that they are looked at as they came.
    for entry in xml.etree.ElementTree.fromstring(texts["/feed.atom"]).iter(ATOM + "entry"):
        tags = Tags(entry.find(ATOM + "content").text)
        ensure(tags.found <= {"p", "strong", "a", "time", "span"}, f"a feed has {tags.found}")
    titles = [entry.title for entry in feedparser.parse(texts["/feed.atom"]).entries]
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
    documents = {}
    for document, keys in DOCUMENTS.items():
        status, headers, text = system.get("/api/v2/" + document)
        ensure(status == 200 and headers["Access-Control-Allow-Origin"] == "*", document)
        found = documents[document] = json.loads(text)
        ensure(set(found) == keys, f"{document} has {set(found)}")
        for component in found.get("components", []):
            ensure(COMPONENT <= set(component), f"{document}: {component}")
        events = found.get("incidents", []) + found.get("scheduled_maintenances", [])
        for event in events:
            ensure(INCIDENT <= set(event) and isinstance(event["id"], str), f"{document}: {event}")
            ensure(all(UPDATE == set(update) for update in event["incident_updates"]), document)
    summary = documents["summary.json"]
    ensure(summary["status"]["indicator"] == "critical", f"{summary['status']}")
    groups = [component for component in summary["components"] if component["group"]]
    ids = {component["id"] for component in summary["components"]}
    ensure(groups and all(set(group["components"]) <= ids for group in groups), f"{groups}")


def exported(system):
    """What an exporter for Prometheus makes of Statuspage's summary: the labels and the value of each sample, by name."""
    with tempfile.TemporaryDirectory() as folder:
        services, metrics = pathlib.Path(folder, "services.json"), pathlib.Path(folder, "metrics")
        service = {"url": system.url + "/api/v2/summary.json", "name": "ours"}
        services.write_text(json.dumps({"ours": service}))
        environment = os.environ | {
            "RUN_MODE": "once",
            "SERVICES_JSON_PATH": str(services),
            "METRICS_TEXTFILE_PATH": str(metrics),
        }
        program = pathlib.Path(sys.executable).with_name("statuspage-prometheus-exporter")
        subprocess.run([program], cwd=folder, env=environment, check=True, capture_output=True)
        found = {}
        for family in prometheus_client.parser.text_string_to_metric_families(metrics.read_text()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


def statuspage_is_understood(system, hostile):
    """The exporter finds the state that the API has."""
    found = exported(system)
    ensure(found["statuspage_probe_check"][0][1] == 1, "the summary can't be read")
    ensure(found["statuspage_service_status"][0][1] == 0, "all is well in spite of a storm")
    states = {labels["component_name"]: value for labels, value in found["statuspage_component_status"]}
    active = json.loads(system.get("/api/v1/incidents?active=true")[2])
    ids = {incident["id"] for incident in active}
    for component in system.components():
        region = component["attributes"][0]["value"]
        is_well = not any(incident["id"] in ids for incident in component["incidents"])
        name = f"{component['name']} ({region})"
        ensure(states.get(name) == is_well, f"{name}: {states}")
    incidents = {labels["incident_id"]: labels for labels, _ in found["statuspage_incident_info"]}
    ensure(set(incidents) == {str(id) for id in ids}, f"{set(incidents)}, not {ids}")
    words = {1: "minor", 2: "major", 3: "critical"}
    for incident in active:
        labels = incidents[str(incident["id"])]
        ensure(labels["impact"] == words[incident["impact"]], f"{labels}, not {incident}")
        ensure(labels["shortlink"] == f"{system.url}/incidents/{incident['id']}", f"{labels}")
        ensure(labels["affected_components"] and labels["started_at"], f"{labels}")
    ensure(any("WWW" in labels["incident_name"] for labels in incidents.values()), f"{incidents}")
    maintenances = [labels for labels, _ in found["statuspage_maintenance_info"]]
    ensure(len(maintenances) == len(hostile) + 1, f"{maintenances}")
    (switches,) = [labels for labels in maintenances if labels["maintenance_name"] == "New switches"]
    ensure(switches["scheduled_start"].startswith("2099-01-01T10:00"), f"{switches}")
    ensure("Kubernetes (Region 1)" in switches["affected_components"], f"{switches}")


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
    statuspage_is_understood(system, hostile)
    badges(system)
