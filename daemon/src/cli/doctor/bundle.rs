//! A text file for whoever helps: what the doctor found, the config, how the daemon is, and its log. No secrets and no customers' data: a config
//! names files that hold secrets, and what may hold one all the same is left out; no order is asked for.

use super::DoctorArgs;
use crate::cli::ask;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use toml::{Table, Value};

const LOG_LINES: &str = "2000";
/// Parts of a key's name whose value is left out: a setting of librdkafka may hold a secret, though the config refuses those that it knows.
const SECRET: [&str; 5] = ["password", "secret", "token", "pem", "credential"];

pub async fn text(report: &str, args: &DoctorArgs) -> String {
    let mut text = String::new();
    let mut part = |title: &str, body: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "==== {title}\n{}\n", body.trim_end());
    };
    part("doctor", report);
    for file in configs(&args.config.config) {
        part(&file.display().to_string(), &fs::read_to_string(&file).map(|text| masked(&text)).unwrap_or_else(|error| error.to_string()));
    }
    for path in ["/health", "/api/v1/state"] {
        part(
            path,
            &ask::get(&args.ask(), path).await.map(|answer| format!("{:#}", answer.json)).unwrap_or_else(|error| format!("{error:#}")),
        );
    }
    let log = ["-u", "dumbwaiter", "-n", LOG_LINES, "--no-pager", "-o", "short-iso"];
    for (program, options) in
        [("uname", &["-a"][..]), ("systemctl", &["status", "--no-pager", "-n", "0", "dumbwaiter"]), ("journalctl", &log)]
    {
        part(program, &said(program, options));
    }
    text
}

/// The config and its fragments.
fn configs(config: &Path) -> Vec<PathBuf> {
    let fragments = fs::read_dir(config.with_file_name("conf.d")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut fragments: Vec<PathBuf> = fragments.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    fragments.sort();
    std::iter::once(config.to_owned()).chain(fragments).collect()
}

/// A config without what may be a secret. The names of files that hold one stay.
fn masked(text: &str) -> String {
    match text.parse::<Table>() {
        Ok(mut config) => {
            mask(&mut config);
            config.to_string()
        }
        Err(_) => "left out: it is no TOML, and so nobody knows where its secrets are\n".into(),
    }
}

fn mask(section: &mut Table) {
    for (key, value) in section {
        let key = key.to_lowercase();
        match value {
            Value::Table(inner) => mask(inner),
            Value::Array(values) => values.iter_mut().filter_map(Value::as_table_mut).for_each(mask),
            _ if SECRET.iter().any(|word| key.contains(word)) && !key.ends_with("_file") => *value = Value::String("left out".into()),
            _ => {}
        }
    }
}

fn said(program: &str, options: &[&str]) -> String {
    match Command::new(program).args(options).output() {
        Ok(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn what_may_be_a_secret_is_left_out() {
        let config = "[kafka]\nbrokers = 'k1'\npassword_file = 'kafka.password'\n[kafka.properties]\n'sasl.password' = 'hush'\n\
                      'ssl.key.pem' = \"\"\"\nhush\nhush\"\"\"\n[[serial]]\ntoken = 'hush'\n";
        let shown = masked(config);
        assert!(!shown.contains("hush") && shown.contains("kafka.password") && shown.contains("k1"), "{shown}");
        assert!(!masked("password = hush").contains("hush"));
    }
}
