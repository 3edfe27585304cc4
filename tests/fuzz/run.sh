#!/usr/bin/env bash
# Starts a system of its own and sends it what schemathesis makes of the document of the API: requests
# that fit it and requests that do not. An answer that is 5xx, or that the document does not have, is a
# failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh
. tests/private_system.sh

# A whole run repeats what this draws.
seed=${FUZZ_SEED:-1}
seconds=${FUZZ_SECONDS:-90}
tools=$PWD/target/tools/fuzz

say() { echo "fuzz: $*" >&2; }

# shellcheck disable=SC2119
install_system_packages
install_python "$tools" tests/fuzz/requirements.txt
start_system fuzz

export FUZZ_TOKEN=$TOKEN
config=$PWD/tests/fuzz/schemathesis.toml
# It leaves notes where it runs.
if ! (cd "$folder" && "$tools/bin/schemathesis" --config-file "$config" run \
    "${URL%/}/api-spec.json" --seed "$seed" --max-time "$seconds"); then
    show_log
    say "seed $seed found the above; FUZZ_SEED=$seed $0 repeats it"
    exit 1
fi
check_panics
