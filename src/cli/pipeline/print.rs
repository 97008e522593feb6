//! Standard output of the commands.

use std::io::{ErrorKind, Write};

/// Prints a text. Whoever reads may stop early (`| head`): that is no error, and the exit code
/// stays that of the whole.
///
/// # Errors
/// It cannot be written, for another reason.
pub fn print(text: &str) -> Result<(), std::io::Error> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
