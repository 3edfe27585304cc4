//! The environment file: what a shell needs to try the operator's commands and the README's tour.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use deploy::{say, servers::Folder, settings};

/// Its name in the data folder.
const NAME: &str = "environment";
/// Repeats the address of a private database, by which the next start knows that the settings of its
/// shell came from this file.
const PRIVATE_DATABASE: &str = "STATUS_DASHBOARD_PRIVATE_DATABASE";

/// The file, removed when this is dropped: what it says holds only while the system runs.
pub(super) struct EnvironmentFile(PathBuf);

impl EnvironmentFile {
    /// Removes what an earlier run left in the folder that was killed.
    pub(super) fn remove_old(folder: &Folder) {
        remove(&folder.path().join(NAME));
    }

    /// Writes the file, readable for its owner only. `shared` are the settings of all programs, `more`
    /// are further variables; those of this process that start with `SDB_` are in it, too.
    pub(super) fn write(
        folder: &Folder,
        shared: &[(&'static str, String)],
        is_private: bool,
        programs: Option<&Path>,
        more: &[(&'static str, &str)],
    ) -> Result<Self> {
        let mut variables = own_settings(env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
        for (name, value) in shared {
            variables.insert((*name).to_owned(), value.clone());
            if is_private && *name == settings::DATABASE {
                variables.insert(PRIVATE_DATABASE.to_owned(), value.clone());
            }
        }
        for (name, value) in more {
            variables.insert((*name).to_owned(), (*value).to_owned());
        }
        let programs = programs.map(|folder| folder.display().to_string());
        let text = text(&variables, programs.as_deref());
        Ok(Self(folder.write_private(NAME, &text)?))
    }

    /// The command that reads it into a shell.
    pub(super) fn command(&self) -> String {
        format!(". {}", quoted(&self.0.display().to_string()))
    }
}

impl Drop for EnvironmentFile {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        say(&format!("{} can't be removed: {error}", path.display()));
    }
}

/// Whether the servers that the settings name are private ones of this program: the shell has read
/// the environment file of an earlier run, whose ports and passwords are no choice of the user.
pub(super) fn names_private_servers() -> bool {
    let private = env::var_os(PRIVATE_DATABASE);
    private.is_some() && private == env::var_os(settings::DATABASE)
}

/// The settings among the variables that a shell can export.
fn own_settings(variables: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let is_setting = |name: &str| {
        name.strip_prefix("SDB_").is_some_and(|rest| {
            rest.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        })
    };
    variables.filter(|(name, _)| is_setting(name)).collect()
}

fn text(variables: &BTreeMap<String, String>, programs: Option<&str>) -> String {
    let mut text = String::from(
        "# For sh, bash and zsh. `cargo run` writes this file when it starts and removes it when it\n\
         # stops.\n",
    );
    for (name, value) in variables {
        text.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    if let Some(folder) = programs {
        let folder = quoted(folder);
        // Once only, however often the file is read.
        text.push_str(&format!(
            "case :$PATH: in *:{folder}:*) ;; *) export PATH={folder}:\"$PATH\" ;; esac\n"
        ));
    }
    text
}

/// A word of the shell that stands for exactly this text.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-:".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a shell has after it read the text.
    fn read_by_sh(text: &str, name: &str) -> String {
        let script = format!("{text}\nprintf %s \"${name}\"");
        let output = Command::new("sh").args(["-euc", &script]).env("PATH", "/bin").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn any_value_reaches_the_shell_as_it_is() {
        for value in [
            "",
            "plain",
            "it's",
            "'",
            "''\\''",
            "$HOME `id` $(id) \"quoted\" \\ ! # ~ * ;&|",
            "two\nlines\n",
            "-n",
            "ä€",
            "amqp://sd:p%40ss@[::1]:5672/%2F?heartbeat=10",
        ] {
            let variables = BTreeMap::from([("SDB_AMQP_URI".to_owned(), value.to_owned())]);
            assert_eq!(read_by_sh(&text(&variables, None), "SDB_AMQP_URI"), value);
        }
    }

    #[test]
    fn the_folder_of_the_programs_is_on_the_path_once() {
        for folder in ["/target/debug", "/it's a\\ $HOME/*"] {
            let once = text(&BTreeMap::new(), Some(folder));
            let twice = format!("{once}{once}");
            assert_eq!(read_by_sh(&twice, "PATH"), format!("{folder}:/bin"));
        }
    }

    #[test]
    fn only_settings_that_a_shell_can_export_are_taken() {
        let pair = |name: &str| (name.to_owned(), "x".to_owned());
        let all = ["SDB_LOG", "SDB_A-B", "SDB_$(id)", "HOME"].map(pair).into_iter();
        assert_eq!(own_settings(all), BTreeMap::from([pair("SDB_LOG")]));
    }
}
