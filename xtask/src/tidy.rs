//! `cargo xtask tidy`: the rules of ARCHITECTURE.md and CONTRIBUTING.md that can be checked by reading files.

mod rules;
#[cfg(test)]
mod tests;

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::cargo::{read, root};

/// A file of the tree; `path` is relative to the root, with `/`.
pub(crate) struct File {
    path: String,
    text: String,
}

/// What a rule found in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    line: usize,
    text: String,
    /// A warning is shown and does not fail.
    fatal: bool,
}

pub(crate) fn run() -> Result<ExitCode> {
    check()?;
    eprintln!("tidy");
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check() -> Result<()> {
    let mut fatal = 0;
    for file in files()? {
        for complaint in rules::RULES.iter().flat_map(|rule| rule(&file)) {
            let kind = if complaint.fatal { "error" } else { "warning" };
            eprintln!("{kind}: {}:{}: {}", file.path, complaint.line, complaint.text);
            fatal += usize::from(complaint.fatal);
        }
    }
    if fatal > 0 {
        bail!("{fatal} breaches of the rules; CONTRIBUTING.md says why each is there");
    }
    Ok(())
}

/// Every text file that git tracks or would track.
fn files() -> Result<Vec<File>> {
    let list =
        read(Command::new("git").current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let read = |path: &str| Some(File { text: std::fs::read_to_string(root().join(path)).ok()?, path: path.to_owned() });
    Ok(list.split('\0').filter(|path| !path.is_empty()).filter_map(read).collect())
}
