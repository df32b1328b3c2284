//! A printer that takes ESC/POS, over TCP or a serial line: what comes out of it is text, a ticket for each cut. It answers what state it
//! is in and when all before is printed, and can run out of paper, hang or lose its power in the middle of a ticket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_serial::{SerialPort as _, SerialStream};

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    NoPaper,
    CoverOpen,
    /// It takes nothing and says nothing.
    Hangs,
    /// It has no power: what it held is gone, and its lines are closed.
    Off,
}

/// What it can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    All,
    /// Its state, and never that something is printed.
    StateOnly,
    Silent,
}

#[derive(Debug, Default)]
struct Paper {
    /// What came and is not printed yet.
    held: Vec<u8>,
    ticket: String,
    tickets: Vec<String>,
    /// Bytes that are no command of those that it knows.
    strange: Vec<String>,
    /// After so many more lines it changes its mood.
    then: Option<(usize, Mood)>,
    lines: usize,
}

pub struct Printer {
    runtime: Option<Runtime>,
    paper: Arc<Mutex<Paper>>,
    mood: watch::Sender<Mood>,
    voice: Voice,
    line: Option<JoinHandle<()>>,
}

impl Printer {
    pub fn new(voice: Voice) -> Printer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
        Printer { runtime: Some(runtime), paper: Arc::default(), mood: watch::channel(Mood::Well).0, voice, line: None }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the end")
    }

    /// Listens on a free port.
    pub fn listen(&mut self) -> SocketAddr {
        let listener = self.runtime().block_on(TcpListener::bind("127.0.0.1:0")).expect("loopback has free ports");
        let address = listener.local_addr().expect("it listens");
        let (paper, mood, voice) = (Arc::clone(&self.paper), self.mood.clone(), self.voice);
        self.runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&paper), mood.clone(), voice));
            }
        });
        address
    }

    /// Plugs it in at a path.
    pub fn plug(&mut self, path: &Path) {
        let (stream, device) = {
            let _context = self.runtime().enter();
            let (stream, port) = SerialStream::pair().expect("a pseudo terminal");
            (stream, port.name().expect("it has a name"))
        };
        let _ = std::fs::remove_file(path);
        std::os::unix::fs::symlink(device, path).expect("a free path");
        self.line = Some(self.runtime().spawn(serve(stream, Arc::clone(&self.paper), self.mood.clone(), self.voice)));
    }

    /// Pulls its plug out.
    pub fn unplug(&mut self) {
        if let Some(line) = self.line.take() {
            line.abort();
            let _ = self.runtime().block_on(line);
        }
    }

    pub fn set(&self, mood: Mood) {
        let mut paper = self.paper();
        if mood == Mood::Off {
            paper.held.clear();
            paper.tear();
        }
        self.mood.send_replace(mood);
    }

    /// Changes its mood in the middle of the next ticket.
    pub fn then(&self, mood: Mood) {
        let mut paper = self.paper();
        paper.then = Some((paper.lines + 4, mood));
    }

    pub fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    /// What came out so far, a text for each cut.
    pub fn tickets(&self) -> Vec<String> {
        let paper = self.paper();
        assert_eq!(paper.strange, Vec::<String>::new(), "bytes that are no command");
        paper.tickets.clone()
    }

    fn paper(&self) -> MutexGuard<'_, Paper> {
        self.paper.lock().expect("no thread panicked")
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, paper: Arc<Mutex<Paper>>, mood: watch::Sender<Mood>, voice: Voice) {
    let mut seen = mood.subscribe();
    let mut bytes = [0; 512];
    loop {
        let now = *seen.borrow_and_update();
        let count = match now {
            Mood::Off => return,
            Mood::Hangs => {
                let _ = seen.changed().await;
                continue;
            }
            Mood::Well | Mood::NoPaper | Mood::CoverOpen => tokio::select! {
                read = stream.read(&mut bytes) => match read {
                    Ok(count) if count > 0 => count,
                    // Nobody has opened the other end of the serial line yet.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        0
                    }
                    Ok(_) | Err(_) => return,
                },
                _ = seen.changed() => 0,
            },
        };
        let answers = paper.lock().expect("no thread panicked").take(&bytes[..count], &mood, voice);
        if stream.write_all(&answers).await.is_err() {
            return;
        }
    }
}

impl Paper {
    fn take(&mut self, mut bytes: &[u8], mood: &watch::Sender<Mood>, voice: Voice) -> Vec<u8> {
        let mut answers = vec![];
        while let Some((first, rest)) = bytes.split_first() {
            match bytes {
                // Real-time commands do not wait for their turn.
                [0x10, 0x04, n, rest @ ..] => {
                    let now = *mood.borrow();
                    answers.extend((voice != Voice::Silent).then(|| state(now, *n)));
                    bytes = rest;
                }
                _ => {
                    self.held.push(*first);
                    bytes = rest;
                }
            }
        }
        while *mood.borrow() == Mood::Well {
            let Some(length) = self.command(voice, &mut answers) else { break };
            self.held.drain(..length);
            if let Some((_, next)) = self.then.filter(|(lines, _)| *lines <= self.lines) {
                self.then = None;
                if next == Mood::Off {
                    self.held.clear();
                    self.tear();
                }
                mood.send_replace(next);
            }
        }
        answers
    }

    /// Carries the first command out; gives its length, `None` if it has not come yet.
    fn command(&mut self, voice: Voice, answers: &mut Vec<u8>) -> Option<usize> {
        let length = match self.held.as_slice() {
            [] | [0x1b | 0x1d] => return None,
            [0x1b, b'@', ..] => 2,
            [0x1b, b't' | b'a' | b'E' | b'd', ..] | [0x1d, b'!' | b'B' | b'a' | b'r', ..] => 3,
            [0x1d, b'V', ..] => 4,
            [0x1b, b'p', ..] => 5,
            [b'\n' | b' '..=b'~' | 0x80.., ..] => 1,
            _ => {
                self.strange.push(self.held.escape_ascii().to_string());
                self.held.len()
            }
        };
        if self.held.len() < length {
            return None;
        }
        match self.held[..length] {
            [b'\n'] => {
                self.ticket.push('\n');
                self.lines += 1;
            }
            // Plain enough for a test: what is beyond ASCII is shown as it came.
            [letter] => self.ticket.push(char::from(letter)),
            [0x1d, b'r', _] => answers.extend((voice == Voice::All).then_some(0)),
            [0x1d, b'V', ..] => self.tear(),
            _ => {}
        }
        Some(length)
    }

    fn tear(&mut self) {
        let ticket = std::mem::take(&mut self.ticket);
        if !ticket.trim().is_empty() {
            self.tickets.push(ticket);
        }
    }
}

/// The answer to `DLE EOT n`.
fn state(mood: Mood, n: u8) -> u8 {
    match (mood, n) {
        (Mood::NoPaper | Mood::CoverOpen, 1) => 0x1a,
        (Mood::NoPaper, 2) => 0x32,
        (Mood::CoverOpen, 2) => 0x16,
        (Mood::NoPaper, 4) => 0x7e,
        _ => 0x12,
    }
}
