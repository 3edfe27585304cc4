#!/usr/bin/env bash
# Checks the alert rules with promtool, which Debian's package `prometheus` has.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh

if ! command -v promtool >/dev/null; then
    echo "$0: promtool is needed. The server of its package is kept from starting now, and starts at" \
        "the next boot unless \`systemctl disable prometheus\` is said." >&2
    install_packages prometheus
fi

promtool check rules deploy/monitoring/alerts.yaml
