//! A byte stream whose reader must keep up: one that stops reading would hold a connection and its buffers for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that a reader must take in each period while more are waiting for it.
pub const PROGRESS_BYTES_MIN: usize = 16 * 1024;

/// Passes reads and writes on; a write fails with `TimedOut` once the other end has taken too little for too long.
pub struct Steady<S> {
    inner: S,
    period: Duration,
    /// Runs while the other end has not taken all that was offered.
    behind: Option<Pin<Box<Sleep>>>,
    /// What it has taken since the timer was set.
    taken: usize,
}

impl<S> Steady<S> {
    pub fn new(inner: S, period: Duration) -> Self {
        Steady { inner, period, behind: None, taken: 0 }
    }

    fn after_write(&mut self, cx: &mut Context<'_>, offered: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(n)) if n < offered => {
                self.taken += n;
                Poll::Ready(Ok(n))
            }
            Poll::Ready(done) => {
                (self.behind, self.taken) = (None, 0);
                Poll::Ready(done)
            }
            Poll::Pending => self.wait(cx),
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            let timer = self.behind.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.period)));
            ready!(timer.as_mut().poll(cx));
            if self.taken < PROGRESS_BYTES_MIN {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")));
            }
            self.taken = 0;
            timer.as_mut().reset(Instant::now() + self.period);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Steady<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Steady<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.after_write(cx, bytes.len(), written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.after_write(cx, offered, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PERIOD: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_reader_that_stops_is_an_error_and_one_that_keeps_up_is_not() {
        let (near, mut far) = tokio::io::duplex(PROGRESS_BYTES_MIN);
        let mut near = Steady::new(near, PERIOD);
        let bytes = vec![7; 8 * PROGRESS_BYTES_MIN];
        let reader = tokio::spawn(async move {
            let mut all = vec![0; 8 * PROGRESS_BYTES_MIN];
            far.read_exact(&mut all).await.unwrap();
            far
        });
        near.write_all(&bytes).await.unwrap();
        let _far = reader.await.unwrap();

        let stalled = tokio::time::timeout(Duration::from_secs(30), near.write_all(&bytes)).await.expect("it fails by itself");
        assert_eq!(stalled.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_reader_that_trickles_is_an_error() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Steady::new(near, PERIOD);
        let trickle = tokio::spawn(async move {
            let mut byte = [0; 1];
            while far.read_exact(&mut byte).await.is_ok() {
                tokio::time::sleep(PERIOD / 10).await;
            }
        });
        let sent =
            tokio::time::timeout(Duration::from_secs(30), near.write_all(&[7; PROGRESS_BYTES_MIN])).await.expect("it fails by itself");
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(near);
        trickle.await.unwrap();
    }
}
