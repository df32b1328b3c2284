//! `dumbwaiter store check|export|import`: looks into the store of a daemon that does not run.

use super::{DataDirArgs, EXIT_WRONG, StoreCommand, print};
use anyhow::Context;
use std::fmt::Write;
use std::io::{BufWriter, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use store::{CheckReport, SledOptions};

/// Runs the command. What an export writes goes to standard output and nothing else does; how much it was, to standard error.
///
/// # Errors
/// The store is in use, is none, or cannot be read or written; the message says which and what to do.
pub fn run(command: &StoreCommand) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Check(args) => check(&args.data_dir),
        StoreCommand::Export(args) => export(args),
        StoreCommand::Import(args) => import(args),
    }
}

fn check(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let report = store::check(data_dir).with_context(|| at(data_dir))?;
    print(&check_text(&report))?;
    Ok(if report.problems_count == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WRONG) })
}

fn export(args: &DataDirArgs) -> anyhow::Result<ExitCode> {
    let report = store::export(&args.data_dir, BufWriter::new(stdout().lock())).with_context(|| at(&args.data_dir))?;
    eprintln!("exported {} queued events, {} dead letters and {} held events", report.queued, report.dead, report.held);
    Ok(ExitCode::SUCCESS)
}

fn import(args: &DataDirArgs) -> anyhow::Result<ExitCode> {
    let options = SledOptions::new(&args.data_dir);
    let report = store::import(options, stdin().lock()).with_context(|| at(&args.data_dir))?;
    print(&format!(
        "imported {} queued events, {} dead letters and {} held events; {} were known\n",
        report.queued, report.dead, report.held, report.known
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn at(data_dir: &Path) -> String {
    format!("the store in {}", data_dir.display())
}

fn check_text(report: &CheckReport) -> String {
    let mut text = String::new();
    let gateway = report.gateway.as_ref().map_or("nobody's", |gateway| gateway.as_str());
    let _ = writeln!(text, "gateway        {gateway}");
    let _ = writeln!(text, "queued         {} ({} bytes), from seq {} on", report.queued, report.queued_bytes, report.progress.next());
    let _ = writeln!(text, "next seq       {}", report.next_seq);
    for (what, count) in [
        ("dead letters", report.dead),
        ("held events", report.held),
        ("requests", report.requests),
        ("open orders", report.open_orders),
        ("closed orders", report.closed_orders),
        ("sessions", report.sessions),
        ("offsets", report.offsets),
        ("starts", report.epochs),
    ] {
        let _ = writeln!(text, "{what:15}{count}");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "wrong: {problem}");
    }
    let unnamed = report.problems_count.saturating_sub(report.problems.len() as u64);
    let _ = match (report.problems_count, unnamed) {
        (0, _) => writeln!(text, "every record is right"),
        (_, 0) => writeln!(text, "nothing was changed; keep the folder, and export what can be read"),
        (_, more) => writeln!(text, "and {more} more; nothing was changed; keep the folder, and export what can be read"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::ids::Seq;

    #[test]
    fn a_report_names_its_problems_and_says_what_to_do() {
        let right =
            CheckReport { gateway: Some("g".parse().unwrap()), queued: 3, queued_bytes: 900, progress: Seq(7), ..CheckReport::default() };
        let text = check_text(&right);
        assert!(text.starts_with("gateway        g\nqueued         3 (900 bytes), from seq 8 on\n"), "{text}");
        assert!(text.ends_with("\nevery record is right\n"), "{text}");
        let wrong = CheckReport { problems: vec!["torn".into()], problems_count: 5, ..right };
        let text = check_text(&wrong);
        assert!(text.contains("\nwrong: torn\nand 4 more; nothing was changed"), "{text}");
    }

    #[test]
    fn a_folder_without_a_store_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let error = check(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("the store in /"), "{error:#}");
    }
}
