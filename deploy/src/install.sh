# Installs packages; run as root by packages.rs and by the scripts that check: install.sh STEP PACKAGE…
set -eu
step=$1
shift

# One at a time: two runs of this would take each other's temporary files away.
mkdir -p /run/lock
exec 9>/run/lock/status-dashboard-packages.lock
flock 9

# Waits for other installations that are going on. The lock is not handed on, since a server that
# an existing policy lets start would keep it.
apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q "$@" 9>&- >&2
}

if [ "$step" = update ]; then
    apt update
    exit
fi

mark='# Temporary, by the Status Dashboard: packages being installed start no servers.'
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d/status-dashboard-temporary.conf

# The services and sockets that start at boot: of systemd and of the runlevels, a path each.
enabled() {
    {
        find /etc/systemd/system -path '*.wants/*' \( -name '*.service' -o -name '*.socket' \)
        find /etc/rc[2-5].d -name 'S[0-9][0-9]*'
    } 2>/dev/null | sort
}

# Disables what this installation enabled, and nothing that was there before. The package's next
# upgrade keeps it so.
disable() {
    enabled | while read -r path; do
        case "$before" in
            *"
$path
"*) ;;
            *)
                name=${path##*/}
                case $path in
                    /etc/rc*) update-rc.d "${name#S[0-9][0-9]}" disable ;;
                    # It works without systemd, but for scripts of packages only: it takes us for one.
                    *) DPKG_MAINTSCRIPT_PACKAGE=status-dashboard deb-systemd-helper disable "$name" ;;
                esac >&2
                ;;
        esac
    done
}

clean() {
    rm -f "$clusters"
    rmdir -p --ignore-fail-on-non-empty "${clusters%/*}" 2>/dev/null || true
    # Also one that an earlier run could not take away, since it was killed; never another's.
    if [ -f "$policy" ] && grep -qxF "$mark" "$policy"; then
        rm -f "$policy"
    fi
    disable
}
before="
$(enabled)
"
trap clean EXIT
trap 'exit 1' HUP INT TERM

if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi
mkdir -p "${clusters%/*}"
echo 'create_main_cluster = false' >"$clusters"

apt install -y --no-install-recommends "$@"
