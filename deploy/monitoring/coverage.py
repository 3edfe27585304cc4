#!/usr/bin/env python3
"""Compares the tests of the alerts with the alerts and with the scrape configurations.

    coverage.py FOLDER MANIFESTS

FOLDER has alerts.yaml, the tests, prometheus.yaml and prometheus-kubernetes.yaml; MANIFESTS those of
Kubernetes. Every alert must have a time at which it fires and one at which it does not, its texts must name
labels that it has, and the series of the tests must have the labels that a real Prometheus gives to the
targets. It prints what is wrong, and exits with 1. check.sh runs it with what it needs.
"""

import copy
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from ruamel.yaml import YAML

# What Prometheus's example for pods with the annotations `prometheus.io/…` gives.
BY_ANNOTATIONS = {"kubernetes-pods": {"job", "instance", "namespace", "pod"}}
TARGET_LABELS = {"job", "instance", "namespace", "pod", "program"}
RABBITMQ_JOBS = {"rabbitmq", "rabbitmq-kubernetes"}
SECONDS_TO_START = 30
# Where metrics are.
PROGRAMS = r"http://[^/]+:909\d/metrics"
RABBITMQ = r"http://[^/]+:15692/metrics/detailed\?family=ra_metrics"


def read(path):
    return [document for document in YAML(typ="safe").load_all(path.read_text()) if document]


def labels_of(selector):
    return dict(re.findall(r'(\w+)="([^"]*)"', selector))


def coverage(alerts, tests):
    """An alert fires in one test at least, and does not in one that has its metrics."""
    for alert in alerts:
        name = alert["alert"]
        metrics = set(re.findall(r"\b(?:(?:sdb|rabbitmq)_\w+|up)\b", alert["expr"]))
        fires, quiet = [], False
        for test in tests:
            has_metrics = any(re.match(r"\w+", s["series"])[0] in metrics for s in test["input_series"])
            for case in test["promql_expr_test"]:
                named = re.search(r'alertname=~?"([^"]*)"', case["expr"])
                if not named or not re.fullmatch(named[1], name):
                    continue
                firing = [labels_of(sample["labels"]) for sample in case.get("exp_samples", [])]
                firing = [each for each in firing if each["alertname"] == name]
                fires += [each for each in firing if each["alertstate"] == "firing"]
                quiet |= not firing and has_metrics
        if not fires:
            yield f"no test has {name} fire"
        if not quiet:
            yield f"no test has the metrics of {name} without that it fires"
        texts = " ".join(alert["annotations"].values())
        for label in set(re.findall(r"\$labels\.(\w+)", texts)):
            if not all(label in each for each in fires):
                yield f"{name} shows the label {label}, which it does not always have"


def pods(manifests, namespace):
    """Each port of each pod, as Prometheus discovers them, and a pod that has ended."""
    found = []
    for path in sorted(manifests.glob("*.yaml")):
        for resource in read(path):
            template = resource.get("spec", {}).get("template") if "kind" in resource else None
            if not template:
                continue
            for container in template["spec"]["containers"]:
                # A container without a port is discovered, too.
                for port in container.get("ports", [{"name": "", "containerPort": 80}]):
                    for phase in ("Running", "Succeeded"):
                        meta = {
                            "namespace": namespace,
                            "pod_name": f"{resource['metadata']['name']}-{phase.lower()}",
                            "pod_phase": phase,
                            "pod_container_port_name": port["name"],
                        }
                        for key, value in template["metadata"]["labels"].items():
                            meta["pod_label_" + re.sub(r"\W", "_", key)] = value
                        labels = {f"__meta_kubernetes_{k}": v for k, v in meta.items()}
                        address = f"10.0.0.{len(found) + 1}:{port['containerPort']}"
                        found.append({"targets": [address], "labels": labels})
    return found


def nodes(manifests, namespace):
    """Each port of each node of RabbitMQ, as its operator names them and Prometheus discovers them."""
    [cluster] = read(manifests / "servers/rabbitmq.yaml")
    name = cluster["metadata"]["name"]
    ports = {"epmd": 4369, "amqp": 5672, "management": 15672, "prometheus": 15692}
    return [
        {
            "targets": [f"10.0.1.{node + 1}:{number}"],
            "labels": {
                "__meta_kubernetes_namespace": namespace,
                "__meta_kubernetes_pod_name": f"{name}-server-{node}",
                "__meta_kubernetes_pod_phase": "Running",
                "__meta_kubernetes_pod_container_port_name": port,
                "__meta_kubernetes_pod_label_app_kubernetes_io_name": name,
                "__meta_kubernetes_pod_label_app_kubernetes_io_component": "rabbitmq",
            },
        }
        for node in range(cluster["spec"]["replicas"])
        for port, number in ports.items()
    ]


def targets(folder, manifests):
    """The labels of all targets, from a Prometheus that runs with both configurations."""
    jobs = copy.deepcopy(read(folder / "prometheus.yaml")[0]["scrape_configs"])
    discovered = {}
    for of_namespace, found in (("namespace.yaml", pods), ("servers/namespace.yaml", nodes)):
        namespace = read(manifests / of_namespace)[0]["metadata"]["name"]
        discovered[namespace] = found(manifests, namespace)
    for job in copy.deepcopy(read(folder / "prometheus-kubernetes.yaml")[0]["scrape_configs"]):
        [discovery] = job.pop("kubernetes_sd_configs")
        [namespace] = discovery["namespaces"]["names"]
        if discovery["role"] != "pod" or namespace not in discovered:
            sys.exit(f"prometheus-kubernetes.yaml does not discover the pods of {', '.join(discovered)}")
        # Debian's Prometheus has no Kubernetes: it gets what that would discover.
        job["static_configs"] = discovered[namespace]
        jobs.append(job)
    with socket.socket() as free, tempfile.TemporaryDirectory() as scratch:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
        free.close()
        config = pathlib.Path(scratch) / "prometheus.yaml"
        # JSON is YAML.
        config.write_text(json.dumps({"scrape_configs": jobs}))
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={scratch}/data"]
        log = open(pathlib.Path(scratch) / "log", "w+")
        server = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log)
        try:
            end = time.monotonic() + SECONDS_TO_START
            while True:
                try:
                    with urllib.request.urlopen(f"http://{address}/api/v1/targets?state=active") as answer:
                        active = json.load(answer)["data"]["activeTargets"]
                    # The targets come some seconds after the server.
                    if {target["labels"]["job"] for target in active} >= {job["job_name"] for job in jobs}:
                        return active
                except OSError:
                    pass
                if server.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    sys.exit(f"Prometheus does not show a target of each job:\n{log.read()}")
                time.sleep(0.2)
        finally:
            server.kill()
            server.wait()


def labels_agree(active, tests):
    """What the tests call a target is one."""
    given = {job: (names, None) for job, names in BY_ANNOTATIONS.items()}
    for target in active:
        labels = target["labels"]
        names, programs = given.setdefault(labels["job"], (set(labels), set()))
        programs.add(labels.get("program"))
        if set(labels) != names:
            yield f"targets of {labels['job']} differ in their labels: {names} and {set(labels)}"
        address = RABBITMQ if labels["job"] in RABBITMQ_JOBS else PROGRAMS
        if not re.fullmatch(address, target["scrapeUrl"]):
            yield f"{target['scrapeUrl']} is no address for metrics"
    for job, (_, programs) in given.items():
        if programs not in (None, {"rabbitmq"} if job in RABBITMQ_JOBS else {"gateway", "worker"}):
            yield f"the job {job} finds the programs {programs}"
    for series in {each["series"] for test in tests for each in test["input_series"]}:
        labels = labels_of(series)
        names, programs = given.get(labels.get("job"), (None, None))
        if names is None:
            yield f"{series}: no scrape configuration has this job"
        elif set(labels) & TARGET_LABELS != names:
            yield f"{series}: its target has the labels {sorted(names)}"
        elif programs and labels["program"] not in programs:
            yield f"{series}: its job has no such program"


def main():
    folder, manifests = map(pathlib.Path, sys.argv[1:])
    alerts = [rule for group in read(folder / "alerts.yaml")[0]["groups"] for rule in group["rules"]]
    tests = [test for path in sorted(folder.glob("*.test.yaml")) for test in read(path)[0]["tests"]]
    problems = [*coverage(alerts, tests), *labels_agree(targets(folder, manifests), tests)]
    sys.exit("\n".join(problems) or None)


main()
