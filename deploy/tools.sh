# What the scripts that check have in common: they are run from the project's folder and read this.

# Installs Debian's packages that are missing: said first; by root or sudo, or else as the line to run.
install_packages() {
    local shell=(sh)
    if [ "$(id -u)" != 0 ]; then
        shell=(sudo -n sh)
    fi
    if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; }; then
        echo "$0: not installed: $*. Run this, then try again:" >&2
        echo >&2
        echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*" >&2
        exit 1
    fi
    echo "$0: not installed: $*. Installing with apt-get." >&2
    "${shell[@]}" deploy/src/install.sh update
    "${shell[@]}" deploy/src/install.sh install "$@"
}

# Whether Python can make virtual environments: Debian's comes without what they need.
has_venv() {
    python3 -c 'import ensurepip, venv' 2>/dev/null
}

# Makes a virtual environment of just the packages that a file pins. Anew only when the file changes;
# one run at a time.
install_python() {
    local folder=$1 requirements=$2
    mkdir -p "$(dirname "$folder")"
    exec 8>"$folder.lock"
    flock 8
    if ! cmp -s "$requirements" "$folder/requirements.txt"; then
        echo "$0: installing Python packages into $folder" >&2
        rm -rf "$folder"
        python3 -m venv "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps \
            --requirement "$requirements"
        cp "$requirements" "$folder/requirements.txt"
    fi
    exec 8>&-
}
