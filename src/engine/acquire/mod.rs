//! From "I want this key" to a grant or an answer.

pub(in crate::engine) mod claiming;
pub(in crate::engine) mod doubt;
pub(in crate::engine) mod wait;
pub(in crate::engine) mod waiters;

use std::sync::Arc;

use claiming::{Ask, Claimed, First, answer_name};
use wait::Wait;

use crate::engine::error::{ClaimError, Error};
use crate::engine::inner::Inner;
use crate::engine::lease::inside::is_inside;
use crate::engine::observed::{Watched, in_span};
use crate::engine::port::{CONFLICTS_MAX, Start};
use crate::observe::{CallPhase, Event};
use crate::protocol::Found;
use crate::store::Store;

impl<S: Store + 'static> Inner<S> {
    /// Claims, and waits for whoever holds the key as long as the request says.
    ///
    /// Where the store answers at once and nobody is waited for, it is done when it is first polled.
    #[inline]
    pub(in crate::engine) async fn claim(self: &Arc<Self>, ask: &Ask) -> Result<Claimed<S>, Error> {
        self.start_housekeeping();
        match self.background.take() {
            None => self.claim_alone(ask).await,
            // Clean-up that waits gets on meanwhile.
            Some(job) => {
                let at_most = self.options.renew_every / 4;
                Box::pin(job.beside(self.clock(), at_most, self.claim_alone(ask))).await
            }
        }
    }

    #[inline]
    async fn claim_alone(self: &Arc<Self>, ask: &Ask) -> Result<Claimed<S>, Error> {
        let mut span = self.begin(&ask.key, || CallPhase::Claim);
        let is_last = |found| found != Found::InProgress || ask.wait.is_zero();
        let at_once = || {
            in_span(&mut span, || {
                let first = self.claim_at_once(ask);
                if let Some(First::Claimed(Claimed::Answered(found, entry), _)) = &first {
                    if is_last(*found) {
                        self.tell(&ask.key, || Event::Answered { answer: answer_name(*found, entry) });
                    }
                }
                first
            })
        };
        let first = match self.port.is_at_once().then(at_once).flatten() {
            // An observer, which has heard of the grant, may have taken its time over it.
            Some(First::Claimed(claimed @ Claimed::Granted(_), _))
                if !self.is_watched() || !claimed.is_late() =>
            {
                return Ok(claimed);
            }
            Some(First::Claimed(claimed @ Claimed::Answered(found, _), _)) if is_last(found) => {
                return Ok(claimed);
            }
            first => first,
        };
        // Apart, so that a call which need not wait is no larger for it.
        let work = self.claim_on(ask, first);
        match span {
            Some(span) => Box::pin(Watched::new(span, work)).await,
            None => Box::pin(work).await,
        }
    }

    /// Goes on claiming from what the `first` try came to.
    async fn claim_on(self: &Arc<Self>, ask: &Ask, first: Option<First<S>>) -> Result<Claimed<S>, Error> {
        let claimed = self.claim_patiently(ask, first).await;
        match &claimed {
            Ok(Claimed::Answered(found, entry)) => {
                self.tell(&ask.key, || Event::Answered { answer: answer_name(*found, entry) });
            }
            Ok(Claimed::Granted(_)) => {}
            Err(Error::Incomparable { .. }) => {
                self.tell(&ask.key, || Event::Answered { answer: "incomparable" });
            }
            Err(_) => self.tell(&ask.key, || Event::Unanswered),
        }
        claimed
    }

    async fn claim_patiently(
        self: &Arc<Self>,
        ask: &Ask,
        mut first: Option<First<S>>,
    ) -> Result<Claimed<S>, Error> {
        let mut now = match first {
            Some(First::Claimed(_, begun)) => begun,
            Some(First::Failed(_)) | None => self.clock().now(),
        };
        let until = now + ask.wait;
        for _ in 0..=CONFLICTS_MAX {
            let claimed = match first.take() {
                Some(First::Claimed(claimed, _)) => claimed,
                Some(First::Failed(failure)) => {
                    self.claim_once(ask, Start::After(failure, None), now).await?
                }
                None => self.claim_once(ask, Start::Known(None, now), now).await?,
            };
            let claimed = match claimed {
                // Inside of its own operation, it would wait for itself.
                Claimed::Answered(Found::InProgress, entry) if until > now && !is_inside(&entry) => {
                    Box::pin(Wait::begin(self, ask, entry, until).run()).await?
                }
                claimed => claimed,
            };
            match &claimed {
                Claimed::Answered(..) => return Ok(claimed),
                // A grant that arrives past its own deadline is renewed before anything starts.
                Claimed::Granted(guard) => match guard.lease.renew_if_late().await {
                    Ok(()) => return Ok(claimed),
                    Err(ClaimError::Store { scope, source }) => return Err(Error::Store { scope, source }),
                    // It came so late that somebody else was there: the call begins anew.
                    Err(_) => {}
                },
            }
            now = self.clock().now();
        }
        Err(Error::Inconsistent { scope: ask.key.scope_label() })
    }
}
