// SPDX-License-Identifier: Apache-2.0
//! Bodies of answers: whole, with trailers, or a stream fed by somebody else at the reader's pace. Used by `serve` and its callers.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A body.
#[derive(Debug)]
pub struct Body(Content);

#[derive(Debug)]
enum Content {
    Full(Bytes),
    /// The trailers are gone once they were sent.
    Trailed(Bytes, Option<HeaderMap>),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    /// No bytes at all.
    pub const fn empty() -> Self {
        Self(Content::Full(Bytes::new()))
    }

    /// What comes out of `queue`, piece by piece, until its senders are gone. The queue's capacity is the limit
    /// of what waits for a slow reader; when the reader is gone, the queue is closed.
    pub const fn stream(queue: mpsc::Receiver<Bytes>) -> Self {
        Self(Content::Stream(queue))
    }

    /// Bytes with header fields after them. HTTP/1 sends these only to who asks for them.
    pub const fn trailed(bytes: Bytes, trailers: HeaderMap) -> Self {
        Self(Content::Trailed(bytes, Some(trailers)))
    }

    /// The bytes, if the body isn't a stream.
    pub const fn bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Content::Full(bytes) | Content::Trailed(bytes, _) => Some(bytes),
            Content::Stream(_) => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Full(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self(Content::Full(text.into()))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Content::Full(bytes.into()))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self(Content::Full(Bytes::from_static(text.as_bytes())))
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Content::Full(Bytes::from_static(bytes)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Content::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Trailed(bytes, _) if !bytes.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            Content::Trailed(_, trailers) => Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Content::Stream(queue) => queue.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Content::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Trailed(..) | Content::Stream(_) => SizeHint::default(),
        }
    }
}
