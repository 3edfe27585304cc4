#!/usr/bin/env bash
# Checks the alert rules with promtool, which Debian's package `prometheus` has.
set -euo pipefail
cd "$(dirname "$0")"

by_hand='sudo apt-get update && sudo apt-get install -y --no-install-recommends prometheus'

# Ends with what to run by hand.
fail() {
    printf 'check.sh: %s. Run this, then try again:\n\n    %s\n' "$1" "$by_hand" >&2
    exit 1
}

if ! command -v promtool >/dev/null; then
    [ -x /usr/bin/apt-get ] || fail 'promtool is needed, and only Debian'\''s packages are known here'
    if [ "$(id -u)" = 0 ]; then
        root=(sh)
    elif sudo -n true 2>/dev/null; then
        root=(sudo -n sh)
    else
        fail 'promtool is needed'
    fi
    echo "check.sh: promtool is needed; installing Debian's package prometheus with apt-get. Its own" \
        "server is kept from starting now, and starts at the next boot unless \`systemctl disable" \
        "prometheus\` is said." >&2
    { "${root[@]}" ../src/install.sh update && "${root[@]}" ../src/install.sh install prometheus; } ||
        fail 'apt-get failed, see above'
    command -v promtool >/dev/null || fail 'apt-get ended well, but there is no promtool'
fi

promtool check rules alerts.yaml
