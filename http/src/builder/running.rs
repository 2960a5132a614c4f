//! How a handler runs, and who waits for it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::request;
use oncekey::time::Clock;
use oncekey::{Policy, Store};

use super::Builder;
use crate::runner::Run;

impl<S: Store + 'static> Builder<S> {
    /// How long a duplicate waits for the response of the first request, instead of being told that
    /// it is in progress. By default it does not wait, as the draft's section 2.6 has it: "The
    /// request was retried before the original request completed. The resource SHOULD respond with
    /// a resource conflict error."
    ///
    /// A duplicate that waits keeps its body in memory, since it takes over if the first request
    /// fails. It ends when its client goes away. [`IdempotencyLayer`](crate::IdempotencyLayer) says under cancel safety what
    /// that may leave behind.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.options.wait = at_most;
        self
    }

    /// The policy for attempts that stop in the middle, instead of the engine's default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.options.policy = Some(policy);
        self
    }

    /// How long a client waits for the store: at most so long until its claim is answered, and at most
    /// so long from the end of its handler until that is on record; 10 s by default, and not zero.
    /// **Twice that, [`wait`](Self::wait) and the handler's own time should be below what gateways
    /// and clients wait**, or a store that is down is never told as such.
    ///
    /// A client whose claim is late gets the problem `store-unavailable`, status 503, and its handler
    /// does not run: should the claim be granted later, it is released. A client whose record is late
    /// gets the handler's response, marked as [unrecorded](Self::unrecorded_field), and the engine
    /// goes on trying until its
    /// [`completion_timeout`](oncekey::DeduplicatorBuilder::completion_timeout).
    ///
    /// With [`fail_open`](Self::fail_open) the claim has the engine's own time, since the handler runs
    /// after that: its [`call_timeout`](oncekey::DeduplicatorBuilder::call_timeout). With
    /// [`run_in_request`](Self::run_in_request) the record has it, since nothing goes on after the
    /// request; a claim that is late is given up as if the client had left.
    pub fn budget(mut self, at_most: Duration) -> Self {
        self.options.budget = at_most;
        self
    }

    /// The clock that the layer's own time limits are counted on; a
    /// [`SystemClock`](oncekey::time::SystemClock) by default, which needs no runtime. Tests can move
    /// one by hand: [`ManualClock`](oncekey::time::ManualClock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.options.clock = Arc::new(clock);
        self
    }

    /// Most keys of one [principal](crate::Principal) that may be in progress at a time in this
    /// process; no limit by default. A request with one more gets the problem `too-many-keys`, status
    /// 429, and claims nothing. Duplicates of what runs, and replays, are answered as ever.
    pub fn in_progress_max(mut self, keys: usize) -> Self {
        self.options.limits.in_progress_max = Some(keys);
        self
    }

    /// Most keys of one [principal](crate::Principal) that may be on record; no limit by default. A
    /// new key past it gets the problem `too-many-keys`, status 429, and claims nothing; requests
    /// with keys that are on record are answered as ever.
    ///
    /// So that one caller cannot fill the store for all. Any key that was claimed is on record, also
    /// where its handler refused the request and the key is free again. Each counts for `within`
    /// from its end: as long as the engine keeps outcomes, which is its
    /// [`retention`](oncekey::DeduplicatorBuilder::retention) and
    /// [`tail`](oncekey::DeduplicatorBuilder::tail).
    ///
    /// Counted in memory, in each process by itself, from its start on: with several processes a
    /// principal has so many keys in each. It takes some 40 bytes a key.
    pub fn kept_max(mut self, keys: usize, within: Duration) -> Self {
        self.options.limits.kept_max = Some((keys, within));
        self
    }

    /// Runs the handler even if the store cannot answer, **without any promise**. By default such a
    /// request is refused with 503.
    pub fn fail_open(mut self) -> Self {
        self.options.fail_open = true;
        self
    }

    /// Where the rest of a request runs once its client has gone away, so that its handler is not
    /// cancelled. With the feature `tokio` the default is tokio. Until then a handler runs as it
    /// would without this layer. What is around it then, [`carry_context`](Self::carry_context)
    /// takes along.
    ///
    /// A server that shuts down does not wait for spawned handlers:
    /// [`close`](crate::IdempotencyLayer::close) does.
    pub fn spawner(mut self, spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static) -> Self {
        self.options.run = Run::Spawner(Arc::new(spawn));
        self
    }

    /// Takes along what is around a request when the rest of it goes on elsewhere, since its client
    /// has gone away: tokio's task-locals above all, without which a handler that reads one would
    /// panic in the middle. With the feature `tracing` the request's span goes along by itself.
    ///
    /// `capture` is called once for each request with a key, in its context, after its body was
    /// read; it returns what puts the rest of the request into that context again. That is called
    /// only if the client goes away. What it clones is a copy: a task-local that handlers change
    /// should hold an `Arc`.
    ///
    /// ```
    /// use futures::FutureExt as _;
    /// use futures::future::BoxFuture;
    /// # use oncekey::{Deduplicator, MemoryStore};
    /// # use oncekey_http::{IdempotencyLayer, Principal};
    ///
    /// tokio::task_local! { static TENANT: String; } // set by a layer outside: TENANT.scope(tenant, next.run(request))
    ///
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).carry_context(|_parts| {
    ///     let tenant = TENANT.try_with(Clone::clone);
    ///     move |job: BoxFuture<'static, ()>| match tenant {
    ///         Ok(tenant) => TENANT.scope(tenant, job).boxed(),
    ///         Err(_) => job, // a request without a tenant
    ///     }
    /// });
    /// ```
    ///
    /// # Panics
    /// If `capture` panics, the server sees it, and nothing was claimed. If what it returned does,
    /// the handler is dropped with its request, as with a [spawner](Self::spawner) that panics.
    pub fn carry_context<W>(mut self, capture: impl Fn(&request::Parts) -> W + Send + Sync + 'static) -> Self
    where
        W: FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + 'static,
    {
        self.options.context = Some(Arc::new(move |parts| Box::new(capture(parts))));
        self
    }

    /// Lets a handler end with its request: **a client that goes away in the middle cancels it**,
    /// and its effect is in doubt. Use this for handlers that undo their work when they are
    /// dropped.
    pub fn run_in_request(mut self) -> Self {
        self.options.run = Run::Request;
        self
    }
}
