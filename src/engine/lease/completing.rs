//! Completing a claim: what came of the operation is noted first, so that it is not lost whatever happens to the call.

use std::convert::Infallible;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::after_effect::Panicked;
use super::drive::Renewal;
use super::{Concluded, Lease, Phase, Step};
use crate::engine::error::ClaimError;
use crate::engine::observed::{Watched, in_span};
use crate::engine::port::{Applied, Unapplied};
use crate::kept::Kept;
use crate::observe::{CallPhase, Event, Span};
use crate::protocol::{Act, HolderCommand, Lent, Outcome, OutcomeBody, Payload};
use crate::store::{Store, StoreFailure};
use crate::time::Moment;

impl<S: Store + 'static> Lease<S> {
    /// Completes once a renewal in flight has ended. From the first poll on the outcome is noted: if this is dropped after
    /// that, or an observer panics, the claim's guard brings the completion to its end.
    pub(in crate::engine) async fn complete_after(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        outcome: Outcome<Lent<'_>>,
    ) -> Result<Kept, ClaimError> {
        let outcome = self.engine.fit_lent(outcome);
        let kept = Kept::of(&outcome.body);
        let (mut begun, mut failed) = (None, None);
        if renewal.is_none() && self.engine.port.is_at_once() {
            match self.complete_at_once(outcome.lent(), &mut begun) {
                Ok(answer) => return answer.map(|()| kept),
                Err(failure) => failed = failure,
            }
        }
        let outcome = outcome.into_owned();
        let now = self.engine.clock().now();
        let at = self.engine.clock().unix(now);
        // A claim that is over stays over: the protocol says whether this is the same completion again.
        // Before anybody is told: an observer that panics must not undo what has ended.
        let was_over = self.completing(&outcome, at);
        let work = Arc::clone(self).complete_once(renewal, Step::Complete(outcome, at), now, failed);
        // Apart, so that a run whose store answers at once is no larger for it.
        let answer = match begun.unwrap_or_else(|| self.begin_completing()) {
            None => Box::pin(self.engine.with_help(work)).await,
            // Whoever helps is within the span too.
            Some(span) => Box::pin(self.engine.with_help(Watched::new(span, work))).await,
        };
        if answer.is_err() && !was_over {
            self.set_phase(Phase::Ended);
        }
        answer.map(|()| kept)
    }

    fn begin_completing(&self) -> Option<Box<dyn Span>> {
        self.engine.begin(&self.key, || CallPhase::Complete { attempt: self.facts.holder.attempt })
    }

    /// Completes by the short way, in the span that it leaves in `begun`. An error: nothing was done, since the claim is over,
    /// or somebody writes for it just now, or the store failed, of which nobody was told yet.
    fn complete_at_once(
        &self,
        outcome: Outcome<&[u8]>,
        begun: &mut Option<Option<Box<dyn Span>>>,
    ) -> Result<Result<(), ClaimError>, Option<StoreFailure>> {
        let number = self.turn_unless_over().ok_or(None)?;
        // Its drop ends the turn too.
        let noted = NotedInPanic { lease: self, number, outcome };
        let span = begun.insert(self.begin_completing());
        let mut command = HolderCommand { holder: self.facts.holder, act: Act::Renew };
        let concluded = Concluded::Completed(Kept::of(&outcome.body));
        let mut complete = || {
            self.engine.port.at_once(&self.key, &mut command, |command, _, reading| {
                command.act = Act::Complete(outcome, reading.unix);
            })
        };
        let answer = in_span(span, || match complete() {
            Some(Ok(Applied::Written { entry, .. })) => {
                self.over(concluded, entry);
                Ok(Ok(()))
            }
            Some(Ok(Applied::Answered { verdict, entry, unknown, .. })) => {
                Ok(self.answered(concluded, verdict, entry, unknown))
            }
            Some(Err(Unapplied::Store(failure))) => Err(Some(failure)),
            Some(Err(Unapplied::Inconsistent | Unapplied::Withdrawn)) | None => Err(None),
        });
        mem::forget(noted);
        self.end_turn(number);
        answer
    }

    async fn complete_once(
        self: Arc<Self>,
        renewal: Option<Renewal>,
        step: Step,
        now: Moment,
        failed: Option<StoreFailure>,
    ) -> Result<(), ClaimError> {
        self.wind_up();
        self.let_end(renewal).await;
        let turn = self.turn_to_conclude().await;
        self.write_after(&turn, step, failed, now, self.completion_until(now)).await
    }

    /// Puts on record that the operation is done, without the outcome that the user's code did not make, and then lets that
    /// code's panic go on.
    pub(in crate::engine) async fn panic_on_record(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        panicked: Panicked,
    ) -> Infallible {
        let Panicked { conclusion, panic } = panicked;
        let outcome: Outcome = Outcome { conclusion, body: OutcomeBody::Unencodable };
        // Boxed: it is rare, and would make the future of every run larger.
        if Box::pin(self.complete_after(renewal, outcome.into())).await.is_err() {
            self.engine.tell(&self.key, || Event::Unrecorded);
        }
        resume_unwind(panic)
    }
}

/// A completion that is being written at once. Should the store or an observer panic, it is noted for the claim's guard.
struct NotedInPanic<'a, S: Store + 'static> {
    lease: &'a Lease<S>,
    /// Of its turn.
    number: u64,
    outcome: Outcome<&'a [u8]>,
}

impl<S: Store + 'static> Drop for NotedInPanic<'_, S> {
    fn drop(&mut self) {
        let Outcome { conclusion, body } = self.outcome;
        let clock = self.lease.engine.clock();
        // A clock that panics here would end the process: the time is for people.
        let at = catch_unwind(AssertUnwindSafe(|| clock.unix(clock.now()))).unwrap_or_default();
        self.lease.completing(&Outcome { conclusion, body: body.map(Payload::from) }, at);
        self.lease.end_turn(self.number);
    }
}
