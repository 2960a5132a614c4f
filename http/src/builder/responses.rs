//! What is kept of a response, and whether.

use std::sync::Arc;

use http::response;
use oncekey::Store;

use super::Builder;
use crate::headers::KeptHeaders;
use crate::outcome_rule::OutcomeRule;
use crate::vary::OnVary;

impl<S: Store + 'static> Builder<S> {
    /// Most bytes of a response's body that are kept; 512 KiB by default, and at most 512 MiB. A
    /// larger one goes to the first caller, and later ones are told that it is not kept. The
    /// engine's [`outcome_len_max`](oncekey::DeduplicatorBuilder::outcome_len_max) (1 MiB by
    /// default) bounds it too.
    pub fn response_body_max(mut self, bytes: usize) -> Self {
        self.options.response_body_max = bytes;
        self
    }

    /// Keeps bodies of unknown length too, however long they take, up to the limit. A client then
    /// gets nothing of such a body until all of it is there.
    ///
    /// By default a body is read to its end if it has a length, by its size hint or in
    /// `Content-Length`. Another is read for as long as it does not pause, and for 100 ms after its
    /// first pause. If it has not ended then, it is taken for a stream: it goes to the first caller
    /// as it comes, and is not kept. Server-sent events, by their content type, are not waited for
    /// at all.
    ///
    /// Replies of gRPC have no length. Those of unary calls are there at once, so they are kept
    /// without this; those of server-streaming calls need it.
    pub fn buffer_streams(mut self) -> Self {
        self.options.buffer_streams = true;
        self
    }

    /// Which header fields of a response are kept; all but `Set-Cookie` by default. [`KeptHeaders`]
    /// has an example.
    pub fn kept_headers(mut self, kept: KeptHeaders) -> Self {
        self.options.kept_headers = kept;
        self
    }

    /// What a request meets if the kept response depends, by its `Vary`, on a header field in which
    /// the request differs from the first one; a problem by default.
    pub fn on_vary(mut self, choice: OnVary) -> Self {
        self.options.on_vary = choice;
        self
    }

    /// Which responses are outcomes. The defaults are [`OutcomeRule::by_status`], and
    /// [`OutcomeRule::by_grpc_status`] for gRPC. A handler's own [`Effect`](crate::Effect) goes
    /// before both, and before this.
    ///
    /// The closure returns an [`OutcomeRule`], or an `Option` of one; for `None`, the default
    /// decides. It sees the head of a response only. **Replies of gRPC mostly have their status in
    /// the trailers.** These are not asked once the closure has returned a rule, so let it return
    /// `None` for such replies.
    ///
    /// # Panics
    /// If the closure does, the client gets a problem with status 500. The handler came to its end,
    /// so that it is done goes on record where the default would keep the response, and its effect
    /// is unknown otherwise.
    ///
    /// ```
    /// # use oncekey_http::{OutcomeRule, IdempotencyLayer, Principal};
    /// # let dedup = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived())
    ///     .outcome_rule(|parts| (parts.status == 503).then_some(OutcomeRule::Release));
    /// ```
    pub fn outcome_rule<O: Into<Option<OutcomeRule>>>(
        mut self,
        rule: impl Fn(&response::Parts) -> O + Send + Sync + 'static,
    ) -> Self {
        self.options.outcome_rule = Some(Arc::new(move |parts| rule(parts).into()));
        self
    }
}
