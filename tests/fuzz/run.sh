#!/usr/bin/env bash
# Starts a system of its own and sends it what schemathesis makes of the document of the API: requests
# that fit it and requests that do not. An answer that is 5xx, or that the document does not have, is a
# failure; 503 only if there are many.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh
. tests/private_system.sh

# A whole run repeats what this draws.
seed=${FUZZ_SEED:-1}
seconds=${FUZZ_SECONDS:-90}
# The most answers that may be 503, which they are where the machine stalls.
unavailable=20
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
# All answers of the gateway, and those of them that are 503.
read -r answers refusals < <("$tools/bin/python" -c '
import sys, urllib.request
metrics = urllib.request.urlopen(sys.argv[1], timeout=60).read().decode()
counts = [line for line in metrics.splitlines() if line.startswith("sdb_http_requests_total{")]
total = lambda lines: sum(int(line.split()[-1]) for line in lines)
print(total(counts), total(line for line in counts if "status=\"503\"" in line))
' "${URL%/}/metrics")
say "$refusals of $answers answers are 503"
if [ "$answers" = 0 ] || [ "$refusals" -gt "$unavailable" ]; then
    show_log
    say "there must be some, and at most $unavailable that are 503"
    exit 1
fi
check_panics
