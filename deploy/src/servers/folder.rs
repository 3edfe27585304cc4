//! The folder with a pair of servers' data, logs and passwords, and its permissions.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};

use super::server::locked_within;
use crate::process;

/// The user that servers run as when root starts them; PostgreSQL's package makes it.
const UNPRIVILEGED: &str = "postgres";

/// The folder, held by this process alone.
///
/// It belongs to who starts the servers. When that is root, the servers' user may pass through
/// it and owns the folders inside that it writes to, and nothing else.
pub struct Folder {
    path: PathBuf,
    account: Account,
    _lock: File,
}

/// The user that the servers run as.
#[derive(Clone)]
pub(super) enum Account {
    /// Who runs this.
    Own,
    /// Another: root runs this.
    Other {
        /// The group's id, as which it may read what root shares with it.
        group: u32,
        /// The user's id.
        user: u32,
    },
}

impl Folder {
    /// Opens a folder, making it if it is missing, and locks it.
    ///
    /// # Errors
    /// When another process holds it, when it is someone else's, or when it can't be made.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_for(path, Account::find()?)
    }

    /// The same for a folder in which no servers run, but secrets are kept: it needs no user for them.
    ///
    /// # Errors
    /// The same.
    pub fn open_without_servers(path: &Path) -> Result<Self> {
        Self::open_for(path, Account::Own)
    }

    fn open_for(path: &Path, account: Account) -> Result<Self> {
        let name = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("the folder {name} can't be made"))?;
        let path = path.canonicalize().with_context(|| format!("{name} can't be opened"))?;
        let owner = fs::metadata(&path)?.uid();
        if owner != geteuid().as_raw() {
            bail!(
                "the folder {name} belongs to another user (id {owner}): remove it, or use another \
                 folder (`cargo run -- --data FOLDER`)"
            );
        }
        match account {
            Account::Own => fs::set_permissions(&path, Permissions::from_mode(0o700))?,
            Account::Other { group, .. } => {
                chown(&path, None, Some(group))?;
                fs::set_permissions(&path, Permissions::from_mode(0o710))?;
            }
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))?;
        // A process that was killed just now may still hold it for a moment.
        let locked = locked_within(&lock, Duration::from_secs(1));
        if !locked.with_context(|| format!("{name} can't be locked"))? {
            bail!(
                "another process, such as a second `cargo run`, uses the folder {name}: stop it \
                 first, or use another folder (`cargo run -- --data FOLDER`)"
            );
        }
        let folder = Self { path, account, _lock: lock };
        folder.check_reachable()?;
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A random secret of 64 hexadecimal digits that only the owner of the folder can read, the
    /// same one each time.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn secret(&self, name: &str) -> Result<String> {
        self.kept_secret(name, 0o600)
    }

    /// The same, for the servers to read too.
    pub(super) fn shared_secret(&self, name: &str) -> Result<String> {
        self.kept_secret(name, self.shared_mode())
    }

    fn kept_secret(&self, name: &str, mode: u32) -> Result<String> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(secret) => return Ok(secret.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{} can't be read", path.display()));
            }
        }
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.write(name, &secret, mode)?;
        Ok(secret)
    }

    /// Writes a file that only the owner of the folder can read.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_private(&self, name: &str, contents: &str) -> Result<PathBuf> {
        self.write(name, contents, 0o600)
    }

    /// Writes a file that the servers can read and others can't.
    pub(super) fn write_shared(&self, name: &str, contents: &str) -> Result<PathBuf> {
        self.write(name, contents, self.shared_mode())
    }

    fn shared_mode(&self) -> u32 {
        match self.account {
            Account::Own => 0o600,
            Account::Other { .. } => 0o640,
        }
    }

    /// Writes a file whole or not at all, and never readable for more than it ends up to be.
    fn write(&self, name: &str, contents: &str, mode: u32) -> Result<PathBuf> {
        let (path, unfinished) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(contents.as_bytes())?;
            if let Account::Other { group, .. } = self.account {
                chown(&unfinished, None, Some(group))?;
            }
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            Ok(())
        };
        write().with_context(|| format!("{} can't be written", path.display()))?;
        Ok(path)
    }

    /// A folder inside that the servers can write to, made if it is missing.
    pub(super) fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("{} can't be made", path.display()))?;
        if let Account::Other { user, group } = self.account {
            chown(&path, Some(user), Some(group))?;
        }
        Ok(path)
    }

    /// A server's log file, which is for root or the owner to open and for the server to write.
    pub(super) fn log(&self, server: &str) -> PathBuf {
        self.path.join(format!("{server}.log"))
    }

    /// Who the servers run as.
    pub(super) fn account(&self) -> Account {
        self.account.clone()
    }

    /// Reports early that the servers' user can't access the folder, for example because of a home of
    /// mode 700; the servers' own messages would be less clear.
    fn check_reachable(&self) -> Result<()> {
        let mut check = self.account.command("test");
        let reached = check.arg("-x").arg(&self.path).status().context("`setpriv` can't be run")?;
        if !reached.success() {
            bail!(
                "the user {UNPRIVILEGED}, which the servers run as, can't reach {}: a folder above \
                 it is closed to others",
                self.path.display()
            );
        }
        Ok(())
    }
}

impl Account {
    fn find() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self::Own);
        }
        let user = User::from_name(UNPRIVILEGED)?.with_context(|| {
            format!("there is no user `{UNPRIVILEGED}`, which PostgreSQL's package makes")
        })?;
        Ok(Self::Other { user: user.uid.as_raw(), group: user.gid.as_raw() })
    }

    /// A short-lived command as this user, with nothing but the paths of programs in its
    /// environment: the user's own settings for the tools don't apply here.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(self.options()).arg("--").arg(program);
        Self::clean(&mut command);
        command
    }

    /// A server as this user, which gets the signal when this process ends.
    pub(super) fn server(&self, program: impl AsRef<OsStr>, at_our_end: Signal) -> Command {
        let mut command = process::dying_with_us_as(&self.options(), program, at_our_end);
        Self::clean(&mut command);
        command
    }

    fn options(&self) -> Vec<String> {
        match self {
            Self::Own => Vec::new(),
            Self::Other { user, group } => vec![
                format!("--reuid={user}"),
                format!("--regid={group}"),
                "--init-groups".to_owned(),
            ],
        }
    }

    fn clean(command: &mut Command) {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
    }
}
