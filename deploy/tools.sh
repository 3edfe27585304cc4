# What the scripts that check have in common: they are run from the project's folder and read this.

# Whether packages may be installed: the rules are those of deploy/src/packages/consent.rs for tests.
may_install() {
    case ${STATUS_DASHBOARD_INSTALL_PACKAGES:-} in
        yes) return 0 ;;
        no) return 1 ;;
        '') ;;
        *)
            echo "$0: STATUS_DASHBOARD_INSTALL_PACKAGES is \`$STATUS_DASHBOARD_INSTALL_PACKAGES\`, but must be \`yes\` or \`no\`" >&2
            exit 1
            ;;
    esac
    case ${CI:-} in true | 1) return 0 ;; esac
    if [ -t 0 ] && [ -t 2 ]; then
        local answer=
        echo "$0: apt-get can install these packages now: $*. It starts no server, and disables the" \
            "services that the packages bring, so that none starts at boot." >&2
        read -r -p "$0: Install them now? [y/N] " answer || true
        case $answer in [yY] | [yY][eE][sS]) return 0 ;; *) return 1 ;; esac
    fi
    [ "$(id -u)" = 0 ]
}

# Installs Debian's packages that are missing, if that is allowed; otherwise says the line to run.
install_packages() {
    local shell=(sh)
    if [ "$(id -u)" != 0 ]; then
        shell=(sudo -n sh)
    fi
    echo "$0: these packages are needed and not installed: $*" >&2
    if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; } ||
        ! may_install "$@"; then
        echo "$0: run this, then try again:" >&2
        echo >&2
        echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*" >&2
        echo >&2
        echo "Where root or sudo without a password is there, STATUS_DASHBOARD_INSTALL_PACKAGES=yes allows it." >&2
        exit 1
    fi
    echo "$0: installing $* with apt-get" >&2
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
