//! The output of commands.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

/// Prints a line to standard output. A closed pipe, as with `| head`, is not an error: the command has
/// done its work.
///
/// # Errors
/// When the line can't be written, for example to a disk that is full.
pub fn line(line: impl Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "standard output can't be written, though the command may have done its work: {error}"
            ),
        )),
        Ok(()) => Ok(()),
    }
}

/// Prints a line to standard error, as far as that can be written: at once, because it has no buffer, and others may
/// write to the same file.
pub fn error(line: impl Display) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
