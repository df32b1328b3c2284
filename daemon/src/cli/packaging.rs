//! What a package needs and only the command line knows: man pages and the shells' completions.

use super::Cli;
use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::fs;
use std::path::Path;

/// Writes `man/*.1` and a completion for each of bash, fish and zsh into `folder`, which is made if it is not there.
///
/// # Errors
/// A file or a folder that cannot be written.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    let man = folder.join("man");
    fs::create_dir_all(&man).with_context(|| format!("cannot make {}", man.display()))?;
    clap_mangen::generate_to(shown(), &man).with_context(|| format!("cannot write to {}", man.display()))?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut shown(), "dumbwaiter", folder)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    Ok(())
}

/// The command line without the commands that are hidden: completions would offer them.
fn shown() -> Command {
    let all = Cli::command();
    let shown: Vec<Command> = all.get_subcommands().filter(|each| !each.is_hide_set()).cloned().collect();
    // A command cannot lose subcommands: this is the same one without them.
    let mut bare = Command::new("dumbwaiter").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    if let Some(about) = all.get_about() {
        bare = bare.about(about.clone());
    }
    bare
}
