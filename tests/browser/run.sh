#!/usr/bin/env bash
# Starts a system of its own and looks at its pages in Chromium: empty, in a storm, with hostile texts, with 1,000
# incidents. With SCREENSHOTS=FOLDER, pictures of them are kept there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/tools.sh
. tests/private_system.sh

tools=$PWD/target/tools/browser

say() { echo "browser: $*" >&2; }

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
install_system_packages "${missing[@]}"
install_python "$tools" tests/browser/requirements.txt
start_system browser

# Chromium and Selenium leave their things in a home.
export HOME=$folder PYTHONDONTWRITEBYTECODE=1
if ! "$tools/bin/python" tests/browser/check.py "$folder"; then
    show_log
    exit 1
fi
check_panics
