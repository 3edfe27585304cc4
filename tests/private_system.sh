# What tests/fuzz/run.sh and tests/browser/run.sh have in common: each has a system of its own. They read this after
# deploy/tools.sh, in the project's folder, and have a function `say`.

# Installs what a system needs, and these packages, as far as it is missing and that is allowed. The program that runs
# the system asks nobody here: it is in the background.
install_system_packages() {
    local missing=("$@")
    has_venv || missing+=(python3 python3-venv)
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# Starts a system in a folder of that name, which is `$folder`. Sets the variables of its environment file, as `URL`
# and `TOKEN`. The system ends with the script.
start_system() {
    # Built first, so that the wait below is for the servers alone.
    cargo build --locked --workspace --bin deploy --bin gateway --bin worker
    folder=$(mktemp -d "/var/tmp/status-dashboard-$1-XXXXXX")
    # The user that servers run as when root starts them has to pass through it.
    chmod 711 "$folder"
    local port environment=
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    SDB_BIND=127.0.0.1:$port target/debug/deploy --data "$folder/servers" \
        >"$folder/said" 2>"$folder/log" &
    system=$!
    trap end_system EXIT
    trap 'exit 1' HUP INT TERM

    say "starting a system in $folder"
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
}

end_system() {
    kill "$system" 2>/dev/null || true
    wait "$system" || true
    rm -rf "$folder"
}

# What the system said while it was asked, for a failure.
show_log() {
    grep -vE 'INFO|DEBUG' "$folder/log" | tail -n 50 >&2 || true
}

# Ends the script if one of the programs panicked.
check_panics() {
    if grep -q panicked "$folder/log"; then
        grep -A 5 panicked "$folder/log" >&2
        say "a program panicked"
        exit 1
    fi
}
