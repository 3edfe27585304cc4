//! Packages are installed with consent only, and what they bring is neither started nor enabled. Each
//! test changes a view of the machine that nobody else has.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use tokio::process::Command;

use super::started::Start;
use harness::{Fixture, tests};

tests!(
    missing_packages_are_not_installed_unasked,
    services_of_installed_packages_are_disabled,
    the_scripts_that_check_follow_the_rules_of_the_tests,
);

/// Whether this process may have a view of the file system of its own.
async fn can_change_its_view() -> Result<bool> {
    let mount = ["-m", "mount", "-t", "tmpfs", "none", "/mnt"];
    let tried = Command::new("unshare").args(mount).output().await;
    let possible = geteuid().is_root() && tried.context("unshare can't be run")?.status.success();
    if !possible {
        eprintln!("NOT TESTED: only root can hide packages, where containers allow `unshare -m`");
    }
    Ok(possible)
}

/// What is started sees no RabbitMQ, and an apt-get that fails: an installation that should not be
/// says so, and changes nothing.
fn hide_rabbitmq(start: &mut Start) {
    let hide = "mount -t tmpfs none /usr/lib/rabbitmq && mount --bind /bin/false /usr/bin/apt-get && \
                exec \"$@\"";
    let words = ["unshare", "-m", "sh", "-c", hide, "sh"].map(str::to_owned);
    start.words.splice(0..0, words);
}

/// The run on a machine without RabbitMQ.
async fn without_rabbitmq(fixture: &Arc<Fixture>, arguments: &[&str]) -> Result<Start> {
    let mut start = Start::new(fixture, arguments).await?;
    hide_rabbitmq(&mut start);
    Ok(start)
}

async fn missing_packages_are_not_installed_unasked(fixture: Arc<Fixture>) -> Result<()> {
    if !can_change_its_view().await? {
        return Ok(());
    }
    const QUESTION: &str = "Install them now? [y/N]";
    const BY_HAND: &str = "apt-get install -y --no-install-recommends rabbitmq-server\n";
    const INSTALLING: &str = "installing rabbitmq-server with apt-get";

    // Without a terminal nobody can be asked.
    let (code, said) = without_rabbitmq(&fixture, &[]).await?.to_its_end().await?;
    ensure!(code == Some(1) && !said.contains(QUESTION) && !said.contains(INSTALLING), "{said}");
    ensure!(said.contains(BY_HAND) && said.contains("--install-packages"), "{said}");

    // On a terminal, anything but a yes is a no.
    for (keys, code) in [("n\n", 1), ("\n", 1), ("\u{4}", 1), ("\u{3}", 0)] {
        let mut run = without_rabbitmq(&fixture, &[]).await?.in_terminal().spawn()?;
        run.prints(QUESTION).await?;
        run.types(keys).await?;
        let (status, said) = (run.ended().await?, run.printed()?);
        ensure!(status.code() == Some(code), "{keys:?}: {status}: {said}");
        ensure!(!said.contains(INSTALLING), "{keys:?}: {said}");
        ensure!(said.contains(BY_HAND) == (code == 1), "{keys:?}: {said}");
    }

    // A yes, in each of its forms. The apt-get of this view fails.
    let mut run = without_rabbitmq(&fixture, &[]).await?.in_terminal().spawn()?;
    run.prints(QUESTION).await?;
    run.types("y\n").await?;
    let (status, said) = (run.ended().await?, run.printed()?);
    ensure!(status.code() == Some(1) && said.contains(INSTALLING), "{status}: {said}");
    ensure!(said.contains("apt-get failed") && said.contains(BY_HAND), "{said}");
    let option = without_rabbitmq(&fixture, &["--install-packages"]).await?;
    let ci = without_rabbitmq(&fixture, &[]).await?.variable("CI", "true");
    let variable = ("STATUS_DASHBOARD_INSTALL_PACKAGES", "yes");
    let yes = without_rabbitmq(&fixture, &[]).await?.variable(variable.0, variable.1);
    for start in [option, ci, yes] {
        let (code, said) = start.to_its_end().await?;
        ensure!(code == Some(1) && said.contains(INSTALLING), "{code:?}: {said}");
    }
    let no = without_rabbitmq(&fixture, &[]).await?.variable("CI", "true");
    let (_, said) = no.variable(variable.0, "no").to_its_end().await?;
    ensure!(!said.contains(INSTALLING) && said.contains(BY_HAND), "{said}");
    let (code, said) =
        without_rabbitmq(&fixture, &[]).await?.variable(variable.0, "1").to_its_end().await?;
    ensure!(code == Some(1) && said.contains("must be `yes` or `no`"), "{code:?}: {said}");
    Ok(())
}

/// Installs two packages in a copy of this machine, one as a person did and one by our script, and
/// shows what starts at boot and what the script left.
const INSTALL: &str = r#"
cd "$1"
mkdir copy
mount -t tmpfs none copy
mkdir copy/upper copy/work copy/root
mount -t overlay overlay -o lowerdir=/,upperdir=copy/upper,workdir=copy/work copy/root
mount --rbind /proc copy/root/proc
mount --rbind /dev copy/root/dev
mount -t tmpfs none copy/root/run
for name in sdb-earlier sdb-brought; do
    mkdir -p "$name/DEBIAN" "$name/lib/systemd/system" "$name/etc/init.d"
    printf 'Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: A test <test@example.org>\nDescription: A test\n' \
        "$name" >"$name/DEBIAN/control"
    printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' \
        >"$name/lib/systemd/system/$name.service"
    printf '#!/bin/sh\n### BEGIN INIT INFO\n# Provides: %s\n# Required-Start:\n# Required-Stop:\n# Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\n' \
        "$name" >"$name/etc/init.d/$name"
    # What debhelper writes.
    printf '#!/bin/sh\nset -e\nif deb-systemd-helper --quiet was-enabled %s.service; then\n    deb-systemd-helper enable %s.service\nelse\n    deb-systemd-helper update-state %s.service\nfi\nupdate-rc.d %s defaults\ninvoke-rc.d %s start\n' \
        "$name" "$name" "$name" "$name" "$name" >"$name/DEBIAN/postinst"
    chmod 755 "$name/DEBIAN/postinst" "$name/etc/init.d/$name"
    dpkg-deb --build --root-owner-group "$name" copy/root/"$name.deb" >/dev/null
done
cp "$2" copy/root/install.sh
cat >copy/root/inside.sh <<'END'
set -eu
show() {
    for path in /etc/systemd/system/multi-user.target.wants/sdb-* /etc/rc3.d/S*sdb-*; do
        [ ! -h "$path" ] || echo "$1: ${path##*/}"
    done
}
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
dpkg --install /sdb-earlier.deb >&2
rm /usr/sbin/policy-rc.d
sh /install.sh install /sdb-brought.deb
show installed
dpkg --install /sdb-brought.deb >&2
show upgraded
for left in /usr/sbin/policy-rc.d /etc/postgresql-common/createcluster.d/status-dashboard-temporary.conf; do
    [ ! -e "$left" ] || echo "left: $left"
done
dpkg-query --show --showformat '${Package} ${Status}\n' sdb-brought
END
chroot copy/root sh /inside.sh
"#;

async fn services_of_installed_packages_are_disabled(fixture: Arc<Fixture>) -> Result<()> {
    if !can_change_its_view().await? {
        return Ok(());
    }
    let script = deploy::checkout().join("deploy/src/install.sh");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-euc", INSTALL, "sh"])
        .args([&fixture.folder, &script])
        .kill_on_drop(true)
        .output()
        .await?;
    let (shown, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    fs::write(fixture.folder.join("install.log"), said.as_bytes())?;
    let expected = "installed: sdb-earlier.service\ninstalled: S01sdb-earlier\n\
                    upgraded: sdb-earlier.service\nupgraded: S01sdb-earlier\n\
                    sdb-brought install ok installed\n";
    ensure!(output.status.success() && shown == expected, "{shown}{said}");
    Ok(())
}

async fn the_scripts_that_check_follow_the_rules_of_the_tests(fixture: Arc<Fixture>) -> Result<()> {
    if !can_change_its_view().await? {
        return Ok(());
    }
    const BY_HAND: &str = "apt-get install -y --no-install-recommends rabbitmq-server\n";
    const INSTALLING: &str = "installing rabbitmq-server with apt-get";
    let script = || -> Result<Start> {
        let mut start = Start::of(&fixture, Vec::new(), &[])?;
        start.words =
            ["bash", "-euc", ". deploy/tools.sh; install_packages rabbitmq-server", "check"]
                .map(str::to_owned)
                .to_vec();
        hide_rabbitmq(&mut start);
        Ok(start)
    };
    const VARIABLE: &str = "STATUS_DASHBOARD_INSTALL_PACKAGES";
    // Root without a terminal installs, as in a container.
    let (_, said) = script()?.to_its_end().await?;
    ensure!(said.contains(INSTALLING), "{said}");
    let (code, said) = script()?.variable(VARIABLE, "no").to_its_end().await?;
    ensure!(code == Some(1) && said.contains(BY_HAND) && !said.contains(INSTALLING), "{said}");
    let (code, said) = script()?.variable(VARIABLE, "1").to_its_end().await?;
    ensure!(code == Some(1) && said.contains("must be `yes` or `no`"), "{said}");
    ensure!(!said.contains(INSTALLING), "{said}");
    // On a terminal a person is asked, unless the environment has the answer.
    for (keys, is_yes) in [("n\n", false), ("\n", false), ("y\n", true)] {
        let mut run = script()?.in_terminal().spawn()?;
        run.prints("Install them now? [y/N]").await?;
        run.types(keys).await?;
        run.ended().await?;
        let said = run.printed()?;
        ensure!(said.contains(INSTALLING) == is_yes, "{keys:?}: {said}");
        ensure!(said.contains(BY_HAND) != is_yes, "{keys:?}: {said}");
    }
    let (_, said) = script()?.variable("CI", "true").in_terminal().to_its_end().await?;
    ensure!(said.contains(INSTALLING) && !said.contains("[y/N]"), "{said}");
    Ok(())
}
