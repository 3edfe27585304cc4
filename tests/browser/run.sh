#!/usr/bin/env bash
# Starts a system of its own and looks at its pages in Chromium: empty, in a storm, with hostile texts, with 1,000
# incidents. With SCREENSHOTS=FOLDER, pictures of them are kept there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh

tools=$PWD/target/tools/browser

say() { echo "browser: $*" >&2; }

missing=()
has_venv || missing+=(python3 python3-venv)
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
install_python "$tools" tests/browser/requirements.txt

# Built first, so that the wait below is for the servers alone.
cargo build --locked --workspace --bin deploy --bin gateway --bin worker
folder=$(mktemp -d /var/tmp/status-dashboard-browser-XXXXXX)
# The user that servers run as when root starts them has to pass through it.
chmod 711 "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
SDB_BIND=127.0.0.1:$port target/debug/deploy --data "$folder/servers" \
    >"$folder/said" 2>"$folder/log" &
system=$!
clean() {
    kill "$system" 2>/dev/null || true
    wait "$system" || true
    rm -rf "$folder"
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

say "starting a system in $folder"
environment=
for _ in $(seq 600); do
    environment=$(sed -n 's/^ *\. \(.*environment\)$/\1/p' "$folder/said")
    [ -z "$environment" ] || break
    kill -0 "$system" 2>/dev/null || break
    sleep 0.2
done
if [ -z "$environment" ]; then
    cat "$folder/log" >&2
    say "the system does not start"
    exit 1
fi

# shellcheck disable=SC1090
. "$environment"
# Chromium and Selenium leave their things in a home.
export HOME=$folder PYTHONDONTWRITEBYTECODE=1
if ! "$tools/bin/python" tests/browser/check.py "$folder"; then
    grep -vE 'INFO|DEBUG' "$folder/log" | tail -n 50 >&2 || true
    exit 1
fi
if grep -q panicked "$folder/log"; then
    grep -A 5 panicked "$folder/log" >&2
    say "a program panicked"
    exit 1
fi
