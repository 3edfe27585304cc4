#!/usr/bin/env bash
# Checks the files for containers, Kubernetes and systemd, on a machine that has none of the three.
# What it needs and does not find it installs: Python packages into target/tools (a kubectl among them),
# Debian packages for the system, and crates with the operators' types into Cargo's own folder. It passes over
# nothing, and builds and starts nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/tools.sh

root=$PWD
tools=$root/target/tools/python
failed=0

# The oldest Kubernetes that has all the fields, and the newest whose schemas the packages hold.
kubernetes_versions=(1.30.0 1.37.0)
# The types that are generated from the schemas of CloudNativePG and of the Prometheus operator. No package has
# that of RabbitMQ's operator.
types=(
    kcr_postgresql_cnpg_io@3.20260607.103612/clusters
    kcr_monitoring_coreos_com@3.20260613.160609/podmonitors
    kcr_monitoring_coreos_com@3.20260613.160609/prometheusrules
)
# What `systemd-analyze security` may find at most, in tenths: 0 is nothing, 100 all.
exposure=25

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Names what it checks, and shows what a check says only when it fails.
check() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "ok       $name"
    else
        echo "FAILED   $name"
        echo "         ${said//$'\n'/$'\n'         }"
        failed=1
    fi
}

# What no schema knows: that files, names and settings that one file mentions are there.
names_agree() {
    "$tools/bin/python" - <<'PYTHON'
import pathlib, re, sys
from ruamel.yaml import YAML

problems = []
deploy = pathlib.Path("deploy")

def documents(path):
    # It refuses a key that stands twice, which most readers pass over.
    return [d for d in YAML(typ="safe").load_all(path.read_text()) if d is not None]

parsed = {}
for path in sorted(p for p in deploy.rglob("*") if p.suffix in (".yaml", ".yml")):
    try:
        parsed[path] = documents(path)
    except Exception as error:
        problems.append(f"{path}: {error}")

def each(value, key):
    """Every value of this key, however deep."""
    if isinstance(value, dict):
        for k, v in value.items():
            if k == key:
                yield v
            yield from each(v, key)
    elif isinstance(value, list):
        for v in value:
            yield from each(v, key)

# Kubernetes
folder = deploy / "kubernetes"
kustomization = parsed.get(folder / "kustomization.yaml", [{}])[0]
listed = set(kustomization.get("resources", []))
manifests = {
    p.name: d for p, d in parsed.items()
    if p.parent == folder and p.name != "kustomization.yaml"
    and any(isinstance(x, dict) and "apiVersion" in x for x in d)
}
problems += [f"kustomization.yaml lists {n}, which is no manifest here" for n in listed - set(manifests)]
problems += [f"kustomization.yaml does not list {n}" for n in set(manifests) - listed]
generators = kustomization.get("configMapGenerator", [])
for name in each(generators, "files"):
    problems += [f"kustomization.yaml: there is no {f}" for f in name if not (folder / f.split("=")[-1]).exists()]
maps = {g["name"] for g in generators}
images = {i["name"] for i in kustomization.get("images", [])}
readme = (folder / "README.md").read_text()
pods_made = [
    r["spec"]["template"]["metadata"]["labels"]
    for d in manifests.values() for r in d if "template" in r.get("spec", {})
]
for name, resources in manifests.items():
    problems += [f"{name}: no image {i} in kustomization.yaml" for i in set(each(resources, "image")) - images]
    for key in ("configMapRef", "configMap"):
        problems += [f"{name}: no ConfigMap {r['name']} is generated" for r in each(resources, key) if r["name"] not in maps]
    for r in each(resources, "secretKeyRef"):
        if r["name"] != "status-dashboard" or f"`{r['key']}`" not in readme:
            problems.append(f"{name}: the README tells of no key {r['key']} in a secret {r['name']}")
    for resource in resources:
        spec = resource.get("spec", {})
        pods = spec.get("template")
        selector = spec.get("selector", spec.get("podSelector", {}))
        wanted = selector.get("matchLabels", selector)
        made = [pods["metadata"]["labels"]] if pods else pods_made
        if not any(wanted.items() <= labels.items() for labels in made):
            problems.append(f"{name}: the {resource['kind']} {resource['metadata']['name']} selects no pods of ours")
        if not pods:
            continue
        ports = {p["name"] for c in pods["spec"]["containers"] for p in c.get("ports", [])}
        for get in each(pods, "httpGet"):
            if get["port"] not in ports:
                problems.append(f"{name}: there is no port {get['port']}")
        # Probes and Prometheus ask where clients can't keep them out.
        annotations = pods["metadata"].get("annotations", {})
        for c in pods["spec"]["containers"]:
            admin = [e["value"].split(":")[-1] for e in c.get("env", []) if e["name"] == "SDB_ADMIN_ADDRESS"]
            probed = [p["containerPort"] for p in c.get("ports", []) for g in each(c, "httpGet") if p["name"] == g["port"]]
            scraped = [annotations["prometheus.io/port"]] if "prometheus.io/port" in annotations else []
            if {*map(str, probed), *scraped} - {*admin}:
                problems.append(f"{name}: {c['name']} is watched at {probed} and {scraped}, but SDB_ADMIN_ADDRESS has {admin}")
if (folder / "catalogue.yaml").read_bytes() != (deploy / "sample-catalogue.yaml").read_bytes():
    problems.append("kubernetes/catalogue.yaml differs from sample-catalogue.yaml")

# Pods get out to what the programs connect to, and jobs to the database alone.
def egress(component):
    ports = set()
    for d in manifests.values():
        for r in d:
            if r["kind"] == "NetworkPolicy" and "Egress" in r["spec"]["policyTypes"]:
                selector = r["spec"]["podSelector"]
                named = [e["values"] for e in selector.get("matchExpressions", [])]
                if all(component in values for values in named):
                    ports |= {(p["protocol"], p["port"]) for rule in r["spec"].get("egress", []) for p in rule["ports"]}
    return ports
dns = {(protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)}
database = dns | {("TCP", 5432)}
# OTLP over HTTP, which the README names; AMQP with and without TLS.
servers = database | {("TCP", port) for port in (4318, 5671, 5672)}
for component, wanted in {"gateway": servers, "worker": servers, "migrate": database, "catalogue": database}.items():
    if egress(component) != wanted:
        problems.append(f"the network policies let {component} out to {sorted(egress(component))}, not to {sorted(wanted)}")
for _, port in servers:
    if not re.search(rf"\b{port}\b", readme):
        problems.append(f"kubernetes/README.md does not name port {port}, which the policies open")

# What an operator of Prometheus makes of the pods is what prometheus-kubernetes.yaml makes of them.
[monitor] = parsed.get(folder / "monitoring/pod-monitor.yaml", [{}])
[monitor_of_rabbitmq] = parsed.get(folder / "monitoring/pod-monitor-rabbitmq.yaml", [{}])
scrapes = parsed[deploy / "monitoring/prometheus-kubernetes.yaml"][0]["scrape_configs"]
def made_by_operator(monitor):
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    made = {key: endpoint.get(key) for key in ("path", "params")}
    for rule in endpoint["relabelings"]:
        made[rule["targetLabel"]] = rule.get("replacement") or rule["sourceLabels"]
    made |= {"names": [*monitor["spec"]["selector"]["matchLabels"].values()], "port": endpoint["port"]}
    own, *_ = parsed[folder / "namespace.yaml"]
    selected = monitor["spec"].get("namespaceSelector", {"matchNames": [own["metadata"]["name"]]})
    return made | {"namespaces": selected["matchNames"]}
def made_by_prometheus(scrape):
    made = {"job": scrape["job_name"], "path": scrape.get("metrics_path"), "params": scrape.get("params")}
    for rule in scrape["relabel_configs"]:
        # The operator sets these two.
        if rule.get("target_label") not in (None, "namespace", "pod"):
            made[rule["target_label"]] = rule.get("replacement") or rule["source_labels"]
        elif rule.get("source_labels") == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]:
            made["names"] = [rule["regex"]]
        elif rule.get("source_labels") == ["__meta_kubernetes_pod_container_port_name"]:
            made["port"] = rule["regex"]
    return made | {"namespaces": scrape["kubernetes_sd_configs"][0]["namespaces"]["names"]}
for one, other in zip((monitor, monitor_of_rabbitmq), scrapes, strict=True):
    made, written = made_by_operator(one), made_by_prometheus(other)
    if made != written:
        problems.append(f"the PodMonitor {one['metadata']['name']} finds {made}, prometheus-kubernetes.yaml {written}")
if not any(monitor["spec"]["selector"]["matchLabels"].items() <= labels.items() for labels in pods_made):
    problems.append("pod-monitor.yaml selects no pods of ours")

# The servers' examples: a service of that name is in an address of the README.
for name in ("postgresql", "rabbitmq"):
    [server] = parsed[folder / f"servers/{name}.yaml"]
    if f"@{server['metadata']['name']}" not in readme:
        problems.append(f"kubernetes/README.md has no address of {server['metadata']['name']}")
[rabbitmq], [budget] = (parsed[folder / f"servers/{name}.yaml"] for name in ("rabbitmq", "rabbitmq-budget"))
if budget["spec"]["selector"]["matchLabels"] != {"app.kubernetes.io/name": rabbitmq["metadata"]["name"]}:
    problems.append("rabbitmq-budget.yaml is for other pods than those of rabbitmq.yaml")
if monitor_of_rabbitmq["spec"]["selector"] != budget["spec"]["selector"]:
    problems.append("pod-monitor-rabbitmq.yaml selects other pods than those of rabbitmq.yaml")

# Compose
compose = parsed.get(deploy / "container/compose.yaml", [{}])[0]
services = compose.get("services", {})
for name, service in services.items():
    named = [("services", n) for n in service.get("depends_on", {})]
    named += [("networks", n) for n in service.get("networks", [])]
    named += [("configs", c["source"]) for c in service.get("configs", [])]
    named += [("volumes", v.split(":")[0]) for v in service.get("volumes", []) if isinstance(v, str)]
    problems += [f"compose.yaml: {name} names {n}, which is not among the {kind}" for kind, n in named if n not in compose[kind]]
# Only servers that the tests run on, as the project's README says.
tested = " ".join(pathlib.Path("README.md").read_text().split())
for program, image in {"PostgreSQL": "postgres", "RabbitMQ": "rabbitmq"}.items():
    version = re.fullmatch(image + r":([\d.]+)-.*", services[image]["image"])[1]
    if f"{program} {version}" not in tested:
        problems.append(f"compose.yaml: the tests do not run on {program} {version}, as README.md has it")
for file in each(compose.get("configs"), "file"):
    if not (deploy / "container" / file).exists():
        problems.append(f"compose.yaml: there is no {file}")

# Settings: one that nobody reads is no more than a warning in a log.
declared = pathlib.Path("shared/src/settings/table.rs").read_text()
settings = set(re.findall(r'"(SDB_[A-Z_]+)"', declared))
settings |= {f"{name}_FILE" for name in re.findall(r'^    secret\(\s*"(SDB_[A-Z_]+)"', declared, re.M)}
for path in sorted(p for p in deploy.rglob("*") if p.is_file() and p.parent.name in ("container", "kubernetes", "systemd")):
    for name in sorted(set(re.findall(r"\bSDB_[A-Z_]*[A-Z]\b", path.read_text())) - settings):
        problems.append(f"{path}: no setting {name} in shared/src/settings/table.rs")

# Programs of one machine can't share an address.
served = {}
for path in sorted((deploy / "systemd").glob("*.service")):
    for address in re.findall(r"^Environment=SDB_ADMIN_ADDRESS=(\S+)", path.read_text(), re.M):
        for address in {address.replace("%i", str(n)) for n in range(1, 10)}:
            if address in served:
                problems.append(f"{path} and {served[address]} have {address}")
            served[address] = path

# The image's Rust is what Cargo.toml asks for.
dockerfile = (deploy / "container/Dockerfile").read_text()
rust = re.search(r'rust-version = "([\d.]+)"', pathlib.Path("Cargo.toml").read_text())[1]
if f"FROM rust:{rust}-" not in dockerfile:
    problems.append(f"Dockerfile: Cargo.toml asks for Rust {rust}")

sys.exit("\n".join(problems) or None)
PYTHON
}

# The programs are not where the units say, so copies of the units name others.
prepare_units() {
    printf '#!/bin/sh\n' >"$scratch/program"
    chmod 755 "$scratch/program"
    local unit
    for unit in deploy/systemd/*.service; do
        sed -E "s#^(ExecStart=)/usr/local/lib/status-dashboard/(gateway|worker) #\1$scratch/program #" \
            "$unit" >"$scratch/$(basename "$unit")"
    done
}

# It calls what it passes over a warning and is content, so anything it says of ours is an error.
verify_units() {
    local said
    said=$(systemd-analyze verify --man=no "$scratch"/*.service 2>&1) || {
        echo "$said"
        return 1
    }
    if grep -F status-dashboard <<<"$said"; then
        return 1
    fi
}

expose_unit() {
    systemd-analyze security --no-pager --offline=true --threshold="$exposure" "$1"
}

# Debian 12's own kubectl has a kustomize that is too old for this kustomization.
render_kustomization() {
    "$tools/bin/kubectl" kustomize deploy/kubernetes >"$scratch/rendered.yaml"
}

# The block of a document that has this text.
example() {
    awk -v text="$2" '
        /^```/ { if (found) exit; inside = !inside; block = ""; next }
        inside { block = block $0 "\n"; if (index($0, text)) found = 1 }
        END { if (!found) exit 1; printf "%s", block }' "$1"
}

# The README's example of a mapping of alerts, in an overlay.
render_mapping() {
    mkdir "$scratch/mapping"
    cp -R deploy/kubernetes "$scratch/mapping/base"
    printf 'rules:\n  - match: {alertname: Watchdog}\n    ignore: true\n' >"$scratch/mapping/mapping.yaml"
    {
        printf 'resources: [base]\nnamespace: status-dashboard\n'
        example deploy/kubernetes/README.md 'name: SDB_ALERT_MAPPING' || return 1
    } >"$scratch/mapping/kustomization.yaml"
    "$tools/bin/kubectl" kustomize "$scratch/mapping" >"$scratch/mapped.yaml" || return 1
    # The file is where the setting says, in the ConfigMap that is mounted.
    "$tools/bin/python" - "$scratch/mapped.yaml" <<'PYTHON'
import sys
from ruamel.yaml import YAML

resources = list(YAML(typ="safe").load_all(open(sys.argv[1])))
[gateway] = [r for r in resources if r["kind"] == "Deployment" and r["metadata"]["name"].endswith("gateway")]
pod = gateway["spec"]["template"]["spec"]
[container] = pod["containers"]
[path] = [e["value"] for e in container["env"] if e["name"] == "SDB_ALERT_MAPPING"]
[mount] = [m for m in container["volumeMounts"] if path.startswith(m["mountPath"] + "/")]
[volume] = [v for v in pod["volumes"] if v["name"] == mount["name"]]
[files] = [r["data"] for r in resources if r["kind"] == "ConfigMap" and r["metadata"]["name"] == volume["configMap"]["name"]]
if path.removeprefix(mount["mountPath"] + "/") not in files:
    sys.exit(f"there is no {path}")
PYTHON
}

# The README's example of a mapping of alerts, beside compose.yaml.
check_override() {
    example deploy/container/README.md '# compose.override.yaml' >"$scratch/compose.override.yaml" || return 1
    "$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$scratch/compose.override.yaml" || return 1
    "$tools/bin/python" - "$scratch/compose.override.yaml" deploy/container/compose.yaml <<'PYTHON'
import sys
from ruamel.yaml import YAML

override, compose = (YAML(typ="safe").load(open(path))["services"] for path in sys.argv[1:])
if not override.keys() <= compose.keys():
    sys.exit(f"compose.yaml has no {override.keys() - compose.keys()}")
[volume] = override["gateway"]["volumes"]
if not override["gateway"]["environment"]["SDB_ALERT_MAPPING"].startswith(volume["target"] + "/"):
    sys.exit("SDB_ALERT_MAPPING is not below what is mounted")
PYTHON
}

# An overlay as deploy/kubernetes/README.md recommends: what it changes is changed, and nothing else is lost.
render_overlay() {
    mkdir "$scratch/overlay"
    cp -R deploy/kubernetes "$scratch/overlay/base"
    printf 'components:\n  - name: Mine\n' >"$scratch/overlay/catalogue.yaml"
    cat >"$scratch/overlay/kustomization.yaml" <<'YAML'
resources: [base]
namespace: status-dashboard
images:
  - {name: status-dashboard-gateway, newName: registry.example/gateway, newTag: "7"}
replicas:
  - {name: status-dashboard-worker, count: 5}
configMapGenerator:
  - {name: status-dashboard-catalogue, behavior: replace, files: [catalogue.yaml]}
  - name: status-dashboard-settings
    behavior: merge
    literals: ["OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.tracing:4318"]
YAML
    # The README's example of a secret in a file.
    example deploy/kubernetes/README.md 'name: SDB_SECRET_KEY_FILE' \
        >>"$scratch/overlay/kustomization.yaml" || return 1
    "$tools/bin/kubectl" kustomize "$scratch/overlay" >"$scratch/overlaid.yaml"
    local wanted
    for wanted in 'image: registry.example/gateway:7' 'image: status-dashboard-worker:' 'replicas: 5' \
        'name: Mine' 'value: /secrets/secret-key' 'OTEL_EXPORTER_OTLP_ENDPOINT: http' 'SDB_LOG_FORMAT: json'; do
        grep -qF -- "$wanted" "$scratch/overlaid.yaml" || {
            echo "the overlay has no \`$wanted\`"
            return 1
        }
    done
    if grep -q 'name: SDB_SECRET_KEY$' "$scratch/overlaid.yaml"; then
        echo "the overlay has the secret twice"
        return 1
    fi
}

# The same rules in the form of the Prometheus operator.
compare_rules() {
    deploy/kubernetes/monitoring/write-rule.sh | diff deploy/kubernetes/monitoring/prometheus-rule.yaml - ||
        { echo "run write-rule.sh"; return 1; }
}

# `cargo info` fetches a crate, and nothing that it depends on.
check_custom_resources() {
    local type crate pattern found=()
    for type in "${types[@]}"; do
        crate=${type%/*}
        pattern="${CARGO_HOME:-$HOME/.cargo}/registry/src/*/${crate/@/-}/src/v1/${type#*/}.rs"
        compgen -G "$pattern" >/dev/null || cargo info --quiet "$crate"
        found+=("$(compgen -G "$pattern" | tail -1)")
    done
    "$tools/bin/python" deploy/kubernetes/custom_resources.py "${found[@]}" -- "$@"
}

# That the check finds what it looks for: each fault is planted into a copy.
find_planted_faults() {
    local file edit says said
    while IFS='|' read -r file edit says; do
        sed -E "$edit" "deploy/kubernetes/$file" >"$scratch/planted.yaml"
        if said=$(check_custom_resources "$scratch/planted.yaml" 2>&1) || [[ $said != *"$says"* ]]; then
            echo "$edit in $file is not found: $said"
            return 1
        fi
    done <<'FAULTS'
servers/postgresql.yaml|s/dataDurability/durability/|there is no spec.postgresql.synchronous.durability
servers/postgresql.yaml|s/method: any/method: some/|'some', not one of
servers/postgresql.yaml|/^ +number: 1/d|spec.postgresql.synchronous.number is missing
servers/postgresql.yaml|s/instances: 3/instances: three/|spec.instances is 'three'
servers/postgresql.yaml|s/"200"/200/|spec.postgresql.parameters.max_connections is 200
servers/postgresql.yaml|s/kind: Cluster/kind: Clusters/|no types of Clusters
monitoring/pod-monitor.yaml|s/targetLabel: program/target_label: program/|there is no spec.podMetricsEndpoints[0].relabelings[1].target_label
monitoring/pod-monitor-rabbitmq.yaml|s/\[ra_metrics\]/ra_metrics/|spec.podMetricsEndpoints[0].params.family is no list
monitoring/prometheus-rule.yaml|s/ alert: NoGateway/ alerts: NoGateway/|.alerts
FAULTS
}

missing=()
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v shellcheck >/dev/null || missing+=(shellcheck)
has_venv || missing+=(python3 python3-venv)
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
install_python "$tools" deploy/check-requirements.txt
prepare_units

check "names and settings agree" names_agree
check "compose.yaml" "$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/container/compose.yaml
check "an override of compose.yaml" check_override
# Several RUNs in a row are wanted: each is a layer of its own only while images are built.
check "Dockerfile" "$tools/bin/hadolint" --no-color --failure-threshold warning deploy/container/Dockerfile

manifests=(deploy/kubernetes/*.yaml)
for index in "${!manifests[@]}"; do
    case ${manifests[index]} in
        */kustomization.yaml | */catalogue.yaml) unset "manifests[index]" ;;
    esac
done
check "kustomization" render_kustomization
check "an overlay of the kustomization" render_overlay
check "an overlay with a mapping of alerts" render_mapping
for folder in servers monitoring; do
    check "kustomization of $folder" "$tools/bin/kubectl" kustomize "deploy/kubernetes/$folder"
done
check "rules of the Prometheus operator" compare_rules
check "custom resources" check_custom_resources deploy/kubernetes/servers/postgresql.yaml \
    deploy/kubernetes/monitoring/{pod-monitor,pod-monitor-rabbitmq,prometheus-rule}.yaml
check "planted faults in custom resources" find_planted_faults
manifests+=("$scratch/rendered.yaml" "$scratch/overlaid.yaml" "$scratch/mapped.yaml" deploy/kubernetes/servers/{namespace,rabbitmq-budget}.yaml)
for version in "${kubernetes_versions[@]}"; do
    for manifest in "${manifests[@]}"; do
        check "Kubernetes $version: $(basename "$manifest")" \
            "$tools/bin/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "$manifest"
    done
done

check "systemd units" verify_units
for unit in "$scratch"/*.service; do
    check "exposure of $(basename "$unit")" expose_unit "$unit"
done

check "shell scripts" shellcheck --shell=bash --external-sources \
    .ci/run .ci/long deploy/tools.sh deploy/check.sh deploy/container/check.sh deploy/monitoring/check.sh \
    deploy/kubernetes/monitoring/write-rule.sh tests/private_system.sh tests/fuzz/run.sh \
    tests/browser/run.sh
check "shell scripts, plain" shellcheck --shell=sh deploy/src/install.sh

if [ "$failed" != 0 ]; then
    echo "check: something is wrong" >&2
    exit 1
fi
