#!/usr/bin/env bash
# Checks the alert rules and the scrape configurations, and runs the rules' tests, with promtool and
# Prometheus, which Debian's package `prometheus` has.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh

folder=deploy/monitoring
manifests=deploy/kubernetes
tools=$PWD/target/tools/python

missing=()
command -v promtool >/dev/null && command -v prometheus >/dev/null || missing+=(prometheus)
has_venv || missing+=(python3 python3-venv)
if [[ " ${missing[*]} " == *" prometheus "* ]]; then
    echo "$0: promtool is needed. The server of its package is kept from starting now, and starts at" \
        "the next boot unless \`systemctl disable prometheus\` is said." >&2
fi
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
install_python "$tools" deploy/check-requirements.txt

promtool check rules "$folder/alerts.yaml"
promtool check config "$folder/prometheus.yaml"
promtool test rules "$folder"/*.test.yaml
"$tools/bin/python" "$folder/coverage.py" "$folder" "$manifests"
echo "every alert has its tests, with the labels of the scrape configurations"

# That the comparison finds what it looks for: each fault is planted into a copy.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
found() {
    local file=$1 edit=$2 says=$3 said
    rm -rf "$scratch/monitoring"
    cp -R "$folder" "$scratch/monitoring"
    sed -i -E "$edit" "$scratch/monitoring/$file"
    if cmp -s "$folder/$file" "$scratch/monitoring/$file"; then
        echo "$0: nothing to plant in $file: $edit" >&2
        exit 1
    fi
    if said=$("$tools/bin/python" "$folder/coverage.py" "$scratch/monitoring" "$manifests" 2>&1) ||
        [[ $said != *"$says"* ]]; then
        echo "$0: a planted fault is not found ($file: $edit): $said" >&2
        exit 1
    fi
}
found alerts.yaml 's/alert: QueueLong/alert: QueueLonger/' 'no test has QueueLonger fire'
found alerts.test.yaml '/ClockOff"\}.*exp_samples: \[\]/d' 'the metrics of ClockOff without that it fires'
found alerts.yaml 's/labels.partition/labels.queue/' 'QueueLong shows the label queue'
found prometheus.yaml 's/job_name: status.*/job_name: other/' 'no scrape configuration has this job'
found prometheus.yaml 's/ra_metrics/channel_metrics/' 'is no address for metrics'
found prometheus.yaml '/program: worker/d' 'differ in their labels'
found prometheus-kubernetes.yaml 's/target_label: pod$/target_label: pod_name/' 'its target has the labels'
found prometheus-kubernetes.yaml 's/regex: admin/regex: admin|http/' 'is no address for metrics'
found prometheus-kubernetes.yaml 's/regex: prometheus/regex: amqp/' 'is no address for metrics'
found prometheus-kubernetes.yaml 's/replacement: rabbitmq/replacement: broker/' 'finds the programs'
echo "each planted fault is found"
