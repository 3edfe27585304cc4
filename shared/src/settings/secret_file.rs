//! A secret that stands in a file: `SDB_SECRET_KEY_FILE` names the file with `SDB_SECRET_KEY`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{SETTINGS, Settings, SettingsError, table::described};

/// What is added to the name of a secret setting.
const SUFFIX: &str = "_FILE";
/// Maximum size of a file, in bytes. A key or an address is far smaller, so a larger file is another one.
const LARGEST: usize = 64 * 1024;

/// Why a file does not have a secret. Its content is never shown.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It can't be opened or read.
    #[error(transparent)]
    Unreadable(io::Error),
    /// It has nothing but white space.
    #[error("it is empty")]
    Empty,
    /// It has bytes that are no text.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// It is larger than any secret.
    #[error("it is larger than {} KiB", LARGEST / 1024)]
    TooLarge,
}

/// The name of the variable that names the file of a secret setting.
#[must_use]
pub fn variable(setting: &str) -> String {
    format!("{setting}{SUFFIX}")
}

/// Whether a variable names the file of a secret setting.
pub(super) fn is_known(variable: &str) -> bool {
    let setting = variable.strip_suffix(SUFFIX);
    setting.is_some_and(|name| SETTINGS.iter().any(|known| known.is_secret && known.name == name))
}

impl Settings {
    /// The value of a setting as it is written in its variable, or in the file of a secret; none if it is
    /// blank or neither is set.
    pub(super) fn raw(&self, name: &'static str) -> Result<Option<String>, SettingsError> {
        let value = self.variables.get(name).filter(|value| !value.trim().is_empty());
        match (value, self.file_of(name)) {
            (Some(_), Some(_)) => Err(SettingsError::Twice { name }),
            (None, Some(path)) => read(name, path).map(Some),
            (value, None) => Ok(value.cloned()),
        }
    }

    /// The path of the file of a setting, if it is a secret and has one.
    pub(super) fn file_of(&self, name: &'static str) -> Option<&str> {
        let variable = described(name).is_secret.then(|| variable(name))?;
        let path = self.variables.get(&variable)?.trim();
        (!path.is_empty()).then_some(path)
    }
}

/// What a file has, without the line feed at its end, which editors and `echo` write.
fn read(name: &'static str, path: &str) -> Result<String, SettingsError> {
    // A secret that stands where its file should be named is not shown: no secret begins with a slash
    // unless somebody has chosen one that does.
    if !Path::new(path).is_absolute() {
        return Err(SettingsError::NotAPath { name });
    }
    let refused = |problem| SettingsError::File { name, path: path.to_owned(), problem };
    let bytes = bytes(path).map_err(|error| refused(FileProblem::Unreadable(error)))?;
    if bytes.len() > LARGEST {
        return Err(refused(FileProblem::TooLarge));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| refused(FileProblem::NotUtf8))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.trim().is_empty() { Err(refused(FileProblem::Empty)) } else { Ok(text) }
}

/// The bytes of a file, of a larger one only its beginning. A pipe is read to its end, so that a shell's
/// `<(…)` can be named.
fn bytes(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
