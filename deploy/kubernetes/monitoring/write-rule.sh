#!/usr/bin/env bash
# Prints prometheus-rule.yaml: the rules of deploy/monitoring/alerts.yaml in the form of the Prometheus operator.
# After a change of the rules, run
#   deploy/kubernetes/monitoring/write-rule.sh >deploy/kubernetes/monitoring/prometheus-rule.yaml
# deploy/check.sh fails while the file differs.
set -euo pipefail
cd "$(dirname "$0")/../../.."

cat <<'YAML'
# Written by write-rule.sh from deploy/monitoring/alerts.yaml, which is the file to change.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: status-dashboard
  labels:
    app.kubernetes.io/name: status-dashboard
    app.kubernetes.io/component: monitoring
spec:
YAML
sed -n '/^groups:/,$ { s/^./  &/; p }' deploy/monitoring/alerts.yaml
