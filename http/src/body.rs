//! Bodies: those that were read to be compared or kept, and those that go by untouched.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::LengthLimitError;
use pin_project_lite::pin_project;

pin_project! {
    /// The body that a service gets: the one that came in, or its bytes after they were read.
    pub struct RequestBody<B: Body> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    /// The body of a response: the service's own, or the bytes of one that was kept.
    pub struct ResponseBody<B: Body> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = Part]
    enum Inner<B: Body> {
        /// What was read before, and what follows it, if anything does.
        Read { read: VecDeque<Result<Frame<Bytes>, B::Error>>, rest: Option<Pin<Box<B>>> },
        Untouched { #[pin] body: B },
    }
}

impl<B: Body> RequestBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self { inner: Inner::Untouched { body } }
    }

    pub(crate) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { inner: Inner::whole(bytes, trailers) }
    }
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self { inner: Inner::Untouched { body } }
    }

    pub(crate) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { inner: Inner::whole(bytes, trailers) }
    }

    /// One that goes on after what was read of it.
    pub(crate) fn begun(read: Bytes, rest: Pin<Box<B>>) -> Self {
        let read = Some(read).filter(|read| !read.is_empty()).map(|read| Ok(Frame::data(read)));
        Self { inner: Inner::Read { read: read.into_iter().collect(), rest: Some(rest) } }
    }

    /// One that broke off after what was read of it.
    pub(crate) fn broken(read: Bytes, error: B::Error) -> Self {
        let read = VecDeque::from([Ok(Frame::data(read)), Err(error)]);
        Self { inner: Inner::Read { read, rest: None } }
    }
}

impl<B: Body> Inner<B> {
    fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let data = Some(bytes).filter(|bytes| !bytes.is_empty()).map(Frame::data);
        let read = data.into_iter().chain(trailers.map(Frame::trailers)).map(Ok).collect();
        Self::Read { read, rest: None }
    }
}

impl<B: Body<Data = Bytes>> Inner<B> {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            Part::Untouched { body } => body.poll_frame(cx),
            Part::Read { read, rest } => match (read.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(frame)),
                (None, Some(rest)) => rest.as_mut().poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn ended(&self) -> bool {
        match self {
            Self::Untouched { body } => body.is_end_stream(),
            Self::Read { read, rest } => {
                read.is_empty() && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size(&self) -> SizeHint {
        match self {
            Self::Untouched { body } => body.size_hint(),
            // A length that cannot be kept to is not promised.
            Self::Read { read, .. } if read.iter().any(Result::is_err) => SizeHint::new(),
            Self::Read { read, rest } => {
                let data = read.iter().flatten().filter_map(Frame::data_ref);
                let known: u64 = data.map(|data| data.len() as u64).sum();
                let rest = rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(known));
                // HTTP/1.1 sends a body of known length without its trailers.
                let trailers = read.iter().flatten().any(Frame::is_trailers);
                let upper = rest.upper().and_then(|upper| upper.checked_add(known));
                if let Some(upper) = upper.filter(|_| !trailers) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

macro_rules! body_of_inner {
    ($name:ident) => {
        impl<B: Body<Data = Bytes>> Body for $name<B> {
            type Data = Bytes;
            type Error = B::Error;

            fn poll_frame(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
                self.project().inner.poll(cx)
            }

            fn is_end_stream(&self) -> bool {
                self.inner.ended()
            }

            fn size_hint(&self) -> SizeHint {
                self.inner.size()
            }
        }

        impl<B: Body> fmt::Debug for $name<B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let read = matches!(self.inner, Inner::Read { .. });
                f.debug_struct(stringify!($name)).field("read", &read).finish_non_exhaustive()
            }
        }
    };
}

body_of_inner!(RequestBody);
body_of_inner!(ResponseBody);

/// A body that was read to its end.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// What came of reading a body.
pub(crate) enum Read<B: Body> {
    Whole(Whole),
    /// It has more bytes than the limit, or its end was not waited for. It goes on where reading
    /// stopped.
    Over(Bytes, Pin<Box<B>>),
    /// It broke off after these bytes.
    Broken(Bytes, B::Error),
}

/// An error of a body, whatever it is.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Whether a body broke off because it is longer than a layer outside of this one lets through.
pub(crate) fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}

/// Reads a body to its end, up to `limit` bytes; `see` sees its data as it comes in.
pub(crate) async fn read<B: Body<Data = Bytes>>(body: B, limit: usize, see: impl FnMut(&[u8])) -> Read<B> {
    read_until(body, limit, see, |_| Poll::Pending).await
}

/// Reads a body to its end, up to `limit` bytes, unless it makes its reader wait for longer than
/// `patience`, which is begun at its first pause.
pub(crate) async fn read_patiently<B: Body<Data = Bytes>>(
    body: B,
    limit: usize,
    patience: impl FnOnce() -> BoxFuture<'static, ()>,
) -> Read<B> {
    let (mut patience, mut begun) = (Some(patience), None);
    let out_of_patience = move |cx: &mut Context<'_>| {
        begun = begun.take().or_else(|| patience.take().map(|begin| begin()));
        begun.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    };
    read_until(body, limit, |_| (), out_of_patience).await
}

/// Once the body pauses, `enough` says whether to stop.
async fn read_until<B: Body<Data = Bytes>>(
    body: B,
    limit: usize,
    mut see: impl FnMut(&[u8]),
    mut enough: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Read<B> {
    let mut body = Box::pin(body);
    let mut data = Gathered::default();
    let mut trailers = None;
    loop {
        let frame = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            // Nothing comes after the trailers but the end.
            Poll::Pending if trailers.is_some() => Poll::Pending,
            Poll::Pending => enough(cx).map(|()| None),
        });
        let frame = match frame.await {
            Some(Some(frame)) => frame,
            Some(None) => break,
            None => return Read::Over(data.into_bytes(), body),
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Read::Broken(data.into_bytes(), error),
        };
        match frame.into_data() {
            Ok(more) => {
                see(&more);
                data.add(more);
                if data.len() > limit {
                    return Read::Over(data.into_bytes(), body);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    Read::Whole(Whole { bytes: data.into_bytes(), trailers })
}

/// Bytes in one piece: copied only if they come in several, and then at once, so that many small
/// pieces do not pile up.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn add(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}
