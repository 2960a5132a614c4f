//! Driving an operation under a claim: renewal, deadline, and the drop that comes before another may start.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;

use super::attempt::Attempt;
use super::inside::inside;
use super::{Lease, Lost, Step};
use crate::engine::error::ClaimError;
use crate::engine::options::OnLeaseLost;
use crate::store::Store;
use crate::time::Moment;

/// An operation that ended, and the renewal that was in flight then. Whoever concludes the claim notes what came of the
/// operation first, so that it is not lost if the call is dropped, and then lets the renewal end, so that no two writes
/// of one claim are under way together.
pub(in crate::engine) struct Ended<T> {
    pub(in crate::engine) output: T,
    pub(in crate::engine) renewal: Option<Renewal>,
}

/// A renewal under way.
pub(in crate::engine) type Renewal = BoxFuture<'static, Result<(), ClaimError>>;

/// Runs `operation` to its end, unless the lease is lost first; then the operation is dropped, and this says why.
///
/// With `by_keeper`, all renewals are left to a keeper: of an operation that blocks the thread which polls this, so that
/// nothing here can be polled while it runs.
pub(in crate::engine) async fn drive<S, Fut>(
    lease: &Arc<Lease<S>>,
    by_keeper: bool,
    operation: impl FnOnce(Attempt) -> Fut,
) -> Result<Ended<Fut::Output>, ClaimError>
where
    S: Store + 'static,
    Fut: Future,
{
    lease.start();
    let holder = lease.facts.holder;
    let attempt = Attempt::new(Arc::<Lease<S>>::clone(lease));
    let mut operation = pin!(inside(holder, || operation(attempt)));
    let mut upkeep = Upkeep {
        lease,
        by_keeper,
        renewal: None,
        sleep: None,
        retry_at: Moment::ORIGIN,
        now: Moment::ORIGIN,
    };
    let mut begun = false;
    let output = poll_fn(|cx| {
        loop {
            // Every poll of the operation comes after a look at the clock.
            if let Err(lost) = upkeep.check() {
                if lease.engine.options.on_lease_lost == OnLeaseLost::Drop {
                    // One that nobody can stop may have ended meanwhile, and what it did is to be told.
                    let ended = if by_keeper && begun {
                        inside(holder, || operation.as_mut().poll(cx))
                    } else {
                        Poll::Pending
                    };
                    return Poll::Ready(match ended {
                        Poll::Ready(output) => Ok(output),
                        Poll::Pending => Err(lost),
                    });
                }
                // A renewal under way holds the claim's turn, and the operation may want to write.
                upkeep.poll_renewal(cx);
                return inside(holder, || operation.as_mut().poll(cx)).map(Ok);
            }
            upkeep.poll_renewal(cx);
            begun = true;
            if let Poll::Ready(output) = inside(holder, || operation.as_mut().poll(cx)) {
                return Poll::Ready(Ok(output));
            }
            if lease.poll_lost_as_runner(cx).is_ready() {
                continue; // the lease was lost meanwhile: the check above decides
            }
            if upkeep.poll_sleep(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    match output {
        Ok(output) => {
            // At once, the next write is the conclusion, and no renewal is under way that could go on without it.
            if upkeep.renewal.is_some() || !lease.engine.port.is_at_once() {
                lease.wind_up();
            }
            Ok(Ended { output, renewal: upkeep.renewal })
        }
        Err(lost) => Err(lease.lost_error(lost, None)),
    }
}

/// What keeps the lease alive while the operation runs.
struct Upkeep<'a, S: Store + 'static> {
    lease: &'a Arc<Lease<S>>,
    by_keeper: bool,
    renewal: Option<Renewal>,
    /// When to wake next, and the sleep until then.
    sleep: Option<(Moment, BoxFuture<'static, ()>)>,
    /// After a renewal that failed for good: not before this.
    retry_at: Moment,
    /// The latest reading of the clock.
    now: Moment,
}

impl<S: Store + 'static> Upkeep<'_, S> {
    /// Whether the operation may go on; begins a renewal when one is due.
    fn check(&mut self) -> Result<(), Lost> {
        let now = self.lease.engine.clock().now();
        self.now = now;
        let (deadline, renew_at) = self.lease.times()?;
        if now >= deadline {
            self.lease.mark_lost(Lost::Deadline);
            return Err(Lost::Deadline);
        }
        let due = now >= self.renewal_at(deadline, renew_at);
        if self.renewal.is_none() && due && self.lease.wants_renewal(now) {
            let lease = Arc::clone(self.lease);
            self.renewal = Some(Box::pin(async move {
                let Some(turn) = lease.turn_to_keep(deadline).await else {
                    return Err(lease.lost_error(Lost::Deadline, None));
                };
                // The keeper may have renewed it while we waited for the turn.
                if !lease.wants_renewal(lease.engine.clock().now()) {
                    return Ok(());
                }
                lease.write_in(&turn, Step::Renew, None, deadline).await
            }));
        }
        Ok(())
    }

    /// When to renew from here. A keeper comes first: should the operation block its thread while a renewal of ours is
    /// under way, nobody could poll that renewal or take the claim's turn from it, and the lease would end.
    fn renewal_at(&self, deadline: Moment, renew_at: Moment) -> Moment {
        if self.by_keeper {
            return Moment::NEVER;
        }
        let engine = &self.lease.engine;
        let grace = if engine.has_keeper() {
            deadline.saturating_since(renew_at).min(engine.options.renew_every) / 2
        } else {
            Duration::ZERO
        };
        (renew_at + grace).max(self.retry_at)
    }

    fn poll_renewal(&mut self, cx: &mut std::task::Context<'_>) {
        let Some(renewal) = &mut self.renewal else { return };
        if let Poll::Ready(answer) = Pin::new(renewal).poll(cx) {
            self.renewal = None;
            if answer.is_err() {
                let pause = self.lease.engine.port.first_backoff().max(Duration::from_millis(1));
                self.retry_at = self.lease.engine.clock().now() + pause;
            }
        }
    }

    /// Sleeps until something is to be done about the lease.
    fn poll_sleep(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let Ok((deadline, renew_at)) = self.lease.times() else {
            return Poll::Ready(());
        };
        let renewal_at = self.renewal_at(deadline, renew_at);
        let capped = renewal_at.max(self.now) >= self.lease.renew_until();
        let wake_at = if self.renewal.is_some() || capped { deadline } else { deadline.min(renewal_at) };
        if self.sleep.as_ref().is_none_or(|(at, _)| *at != wake_at) {
            self.sleep = Some((wake_at, self.lease.engine.clock().sleep_until(wake_at)));
        }
        let (_, sleep) = self.sleep.as_mut().expect("set above");
        let slept = sleep.as_mut().poll(cx);
        if slept.is_ready() {
            self.sleep = None;
        }
        slept
    }
}
