//! How the daemon's log lines look and which are written. They go to standard error.
//!
//! INFO is a change that an operator wants to know; nothing is said for a single order above TRACE, for logs wear out SD cards.

use crate::config::{Log, LogFormat, LogLevel};
use anyhow::Context;
use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, reload};

/// Overrides `log.level`: a level, or directives by module, `info,dumbwaiter::kafka=debug`.
pub const VARIABLE: &str = "DUMBWAITER_LOG";

/// Starts logging for the whole process; called once.
///
/// # Errors
/// `DUMBWAITER_LOG` is no filter, or logging was started before.
pub fn start(log: Log) -> anyhow::Result<Threshold> {
    let filter = filter_of_process(log.level)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (subscriber, level) = subscriber(resolve(log.format), colours, filter, std::io::stderr);
    tracing::subscriber::set_global_default(subscriber).context("logging was started twice")?;
    Ok(level)
}

/// The level of the lines that are written, which may change.
pub struct Threshold(reload::Handle<Targets, Registry>);

impl Threshold {
    /// Writes lines of this level from now on; without effect where [`VARIABLE`] says another.
    ///
    /// # Errors
    /// [`VARIABLE`] is no filter.
    pub fn set(&self, level: LogLevel) -> anyhow::Result<()> {
        self.0.reload(filter_of_process(level)?).context("the level of the log cannot be changed")
    }
}

fn filter_of_process(level: LogLevel) -> anyhow::Result<Targets> {
    filter(level, std::env::var(VARIABLE).ok().as_deref())
}

fn filter(level: LogLevel, directives: Option<&str>) -> anyhow::Result<Targets> {
    let level = level.as_str();
    // What libraries tell below a warning is about their insides. `dumbwaiter` is also a prefix of the store's and the protocol's crates.
    let ours = match level {
        "error" => level.to_owned(),
        _ => format!("warn,dumbwaiter={level},gateway={level},centre={level}"),
    };
    let directives = directives.filter(|text| !text.trim().is_empty());
    let filter = directives.unwrap_or(&ours).parse::<Targets>();
    filter.with_context(|| format!("{VARIABLE} is no filter; write it like info,dumbwaiter::kafka=debug"))
}

fn resolve(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Human,
        LogFormat::Auto if under_journal() => LogFormat::Journal,
        LogFormat::Auto => LogFormat::Json,
        LogFormat::Human | LogFormat::Json | LogFormat::Journal => format,
    }
}

/// Whether standard error is the stream that systemd named: systemd.exec(5), `$JOURNAL_STREAM`. A child that inherits the variable but
/// writes elsewhere is not under the journal.
fn under_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

fn subscriber<W>(format: LogFormat, colours: bool, filter: Targets, writer: W) -> (impl Subscriber + Send + Sync, Threshold)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Auto | LogFormat::Human => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Journal => lines.with_ansi(false).event_format(JournalLines::default()).boxed(),
    };
    (tracing_subscriber::registry().with(filter).with(lines), Threshold(handle))
}

/// Lines with the priority prefixes of sd-daemon(3); the journal has its own time stamps.
struct JournalLines(Format<Compact, ()>);

impl Default for JournalLines {
    fn default() -> Self {
        JournalLines(Format::default().compact().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for JournalLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, filter: Targets, tell: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(format, false, filter, move || writer.clone()).0, tell);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    fn at(level: LogLevel) -> Targets {
        filter(level, None).unwrap()
    }

    #[test]
    fn every_line_of_the_journal_has_its_priority() {
        let text = written(LogFormat::Journal, at(LogLevel::Debug), || {
            tracing::error!(target: "dumbwaiter", "torn\nin two");
            tracing::warn!(target: "dumbwaiter", queued = 3, "full");
            tracing::info!(target: "dumbwaiter", "up");
            tracing::debug!(target: "dumbwaiter", "detail");
        });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().zip(["<3>", "<3>", "<4>", "<6>", "<7>"]).all(|(line, prefix)| line.starts_with(prefix)), "{text}");
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[2].contains("full") && lines[2].contains("queued=3"), "{text}");
    }

    #[test]
    fn json_is_an_object_a_line() {
        let text = written(LogFormat::Json, at(LogLevel::Info), || tracing::info!(target: "dumbwaiter", queued = 3, "line\nend"));
        let line: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("INFO"), Some("line\nend")));
        assert_eq!(line["queued"].as_u64(), Some(3));
    }

    #[test]
    fn the_level_changes_while_lines_are_written() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, level) = subscriber(LogFormat::Json, false, at(LogLevel::Info), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "dumbwaiter", "before");
            level.0.reload(at(LogLevel::Debug)).unwrap();
            tracing::debug!(target: "dumbwaiter", "after");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn libraries_are_heard_from_warnings_on() {
        let tell = || {
            tracing::info!(target: "rumqttc", "chatter");
            tracing::warn!(target: "rumqttc", "trouble");
            tracing::info!(target: "dumbwaiter::kafka", "change");
            tracing::debug!(target: "dumbwaiter::kafka", "detail");
        };
        let text = written(LogFormat::Human, at(LogLevel::Info), tell);
        assert!(!text.contains("chatter") && text.contains("trouble") && text.contains("change") && !text.contains("detail"), "{text}");
        let text = written(LogFormat::Human, at(LogLevel::Error), tell);
        assert_eq!(text, "");
        let text = written(LogFormat::Human, filter(LogLevel::Error, Some("off,dumbwaiter::kafka=debug")).unwrap(), tell);
        assert!(!text.contains("trouble") && text.contains("detail"), "{text}");
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let error = filter(LogLevel::Info, Some("dumbwaiter=loud")).unwrap_err();
        assert!(error.to_string().starts_with("DUMBWAITER_LOG is no filter"), "{error}");
        assert!(filter(LogLevel::Info, Some("")).is_ok());
    }
}
