#!/usr/bin/env bash
# Starts a system of its own and sends it what schemathesis makes of the document of the API: requests
# that fit it and requests that do not. An answer that is 5xx, or that the document does not have, is a
# failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh

# A whole run repeats what this draws.
seed=${FUZZ_SEED:-1}
seconds=${FUZZ_SECONDS:-90}
tools=$PWD/target/tools/fuzz

say() { echo "fuzz: $*" >&2; }

# The program that runs the system asks nobody here: it is in the background.
missing=()
has_venv || missing+=(python3 python3-venv)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
install_python "$tools" tests/fuzz/requirements.txt

# Built first, so that the wait below is for the servers alone.
cargo build --locked --workspace --bin deploy --bin gateway --bin worker
folder=$(mktemp -d /var/tmp/status-dashboard-fuzz-XXXXXX)
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
for _ in $(seq 600); do
    token=$(sed -n 's/^Token: //p' "$folder/said")
    [ -z "$token" ] || break
    kill -0 "$system" 2>/dev/null || break
    sleep 0.2
done
if [ -z "$token" ]; then
    cat "$folder/log" >&2
    say "the system does not start"
    exit 1
fi

export FUZZ_TOKEN=$token
config=$PWD/tests/fuzz/schemathesis.toml
# It leaves notes where it runs.
if ! (cd "$folder" && "$tools/bin/schemathesis" --config-file "$config" run \
    "http://127.0.0.1:$port/api-spec.json" --seed "$seed" --max-time "$seconds"); then
    # What the system said while it was asked.
    grep -vE 'INFO|DEBUG' "$folder/log" | tail -n 50 >&2 || true
    say "seed $seed found the above; FUZZ_SEED=$seed $0 repeats it"
    exit 1
fi
if grep -q panicked "$folder/log"; then
    grep -A 5 panicked "$folder/log" >&2
    say "a program panicked"
    exit 1
fi
