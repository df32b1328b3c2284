//! The board as server-sent events: the newest state, at most once a second, for as long as a page listens.
//!
//! A page that reads slowly misses states in between, never the last one, and costs one shared text: there is no queue.

use super::pages::BUILD;
use crate::ingress::http::{Bounded, Usage};
use axum::body::{Body, Bytes};
use axum::http::{Response, header};
use axum::response::IntoResponse;
use gateway::board::{Board, Entry};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

/// Least time between two boards on one stream.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest silence on a stream: a page that hears nothing for longer knows that the line is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a page is told first: to come back two seconds after a break.
const HELLO: &str = "retry: 2000\n";

/// A comment for the line and an event for the page's script, which cannot see comments. It names the build, so that a page of an older
/// one knows that it is.
fn alive() -> String {
    format!(": keep-alive\nevent: alive\ndata: {{\"build\":\"{}\"}}\n\n", *BUILD)
}

/// Renders a board once for all streams that show it.
pub struct BoardText {
    render: fn(&Board) -> Value,
    last: Mutex<Option<(Arc<Board>, Bytes)>>,
}

impl BoardText {
    /// Numbers and statuses only: what may be read from the street.
    pub fn public() -> BoardText {
        BoardText { render: public, last: Mutex::default() }
    }

    /// With order ids.
    pub fn house() -> BoardText {
        BoardText { render: Board::to_json, last: Mutex::default() }
    }

    /// The board's JSON.
    pub fn json(&self, board: &Board) -> String {
        (self.render)(board).to_string()
    }

    fn event(&self, board: Arc<Board>) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((shown, event)) = last.as_ref()
            && Arc::ptr_eq(shown, &board)
        {
            return event.clone();
        }
        let event = Bytes::from(format!("event: board\ndata: {}\n\n", self.json(&board)));
        *last = Some((board, event.clone()));
        event
    }
}

fn public(board: &Board) -> Value {
    let column = |entries: &[Entry]| -> Vec<Value> {
        entries.iter().map(|entry| json!({"number": entry.number, "status": entry.status.as_str()})).collect()
    };
    json!({"build": *BUILD, "preparing": column(&board.preparing), "ready": column(&board.ready)})
}

/// The streams that are open, as many as are bounded.
pub struct Streams {
    free: Arc<Semaphore>,
    streams_max: usize,
    counted: Counted,
    stopped: watch::Receiver<bool>,
}

/// Where streams of a kind are counted.
#[derive(Clone)]
struct Counted {
    usage: Arc<Usage>,
    of: fn(&Usage) -> &Bounded,
}

impl Streams {
    /// At most `streams_max` streams, which all end once `stopped` is true, counted in that part of `usage`.
    pub fn new(streams_max: usize, usage: Arc<Usage>, of: fn(&Usage) -> &Bounded, stopped: watch::Receiver<bool>) -> Streams {
        Streams { free: Arc::new(Semaphore::new(streams_max)), streams_max, counted: Counted { usage, of }, stopped }
    }

    /// Opens a stream, which ends with `until`; `None` if there are too many.
    pub fn listen(
        &self,
        board: watch::Receiver<Arc<Board>>,
        text: Arc<BoardText>,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Option<Response<Body>> {
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            (self.counted.of)(&self.counted.usage).refused.increment();
            return None;
        };
        let place = Place { permit: Some(permit), free: self.free.clone(), streams_max: self.streams_max, counted: self.counted.clone() };
        place.count();
        let listener = Listener { board, text, stopped: self.stopped.clone(), until: Box::pin(until), said: None, _place: place };
        let events = futures_util::stream::unfold(listener, Listener::next);
        let headers = [
            (header::CONTENT_TYPE.as_str(), "text/event-stream"),
            (header::CACHE_CONTROL.as_str(), "no-store"),
            // nginx and those who copied it hold a stream back otherwise.
            ("x-accel-buffering", "no"),
        ];
        Some((headers, Body::from_stream(events)).into_response())
    }
}

/// A place among the streams, until it is dropped.
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    free: Arc<Semaphore>,
    streams_max: usize,
    counted: Counted,
}

impl Place {
    fn count(&self) {
        (self.counted.of)(&self.counted.usage).used.set(self.streams_max - self.free.available_permits());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        self.count();
    }
}

/// One stream's state between two events.
struct Listener {
    board: watch::Receiver<Arc<Board>>,
    text: Arc<BoardText>,
    stopped: watch::Receiver<bool>,
    until: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// When something was last said, and when a board was.
    said: Option<(Instant, Instant)>,
    _place: Place,
}

impl Listener {
    /// What to say next, as soon as there is something to say; `None` ends the stream.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Listener)> {
        let Some((anything_at, board_at)) = self.said else {
            let board = self.show();
            return Some((Ok([HELLO.as_bytes(), alive().as_bytes(), &board].concat().into()), self));
        };
        let mut stopped = self.stopped.clone();
        let changed = async {
            sleep_until(board_at + INTERVAL).await;
            // Last, so that a change which it has seen is always shown.
            self.board.changed().await
        };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => None,
            () = &mut self.until => None,
            changed = changed => {
                changed.ok()?;
                let board = self.show();
                Some((Ok(board), self))
            }
            () = sleep_until(anything_at + KEEP_ALIVE) => {
                self.said = Some((Instant::now(), board_at));
                Some((Ok(alive().into()), self))
            }
        }
    }

    fn show(&mut self) -> Bytes {
        let now = Instant::now();
        self.said = Some((now, now));
        let board = self.board.borrow_and_update().clone();
        self.text.event(board)
    }
}
