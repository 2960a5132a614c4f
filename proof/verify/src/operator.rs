//! An operator: `forget` and `resolve`.
//!
//! | step here | stands for |
//! |---|---|
//! | [`World::operate`] | `Inner::administer`: a load, one decision, and its write sent |
//! | [`World::operator_failed`] | `administer_found`, after a store failure: the same write again, never another |
//! | [`World::operator_heard`] | its arms for `Done` and `Conflict` |

use oncekey::protocol::{Decision, OperatorCommand, OperatorVerdict, Order, Resolution, UnixMillis, decide};

use crate::config::{Config, Ordered};
use crate::events::{Property, Sight};
use crate::ids::outcome_of;
use crate::plant::Plant;
use crate::state::{Operator, Pending, World};
use crate::store::{By, Kind, Reply, Request};

/// The outcome that an operator says the operation had.
const SAID: u8 = 1;

fn decide_command(world: &World, config: &Config, command: Ordered) -> Decision<OperatorVerdict> {
    let entry = world.store.read();
    let (now, completed) = (UnixMillis(0), Resolution::Completed(outcome_of(SAID)));
    let order = match command {
        Ordered::Forget => Order::Forget(now),
        Ordered::ResolveCompleted => Order::Resolve(&completed, now),
        Ordered::ResolveNoEffect => Order::Resolve(&Resolution::NoEffect, now),
    };
    let command = OperatorCommand { at: None, order };
    decide(entry.as_ref(), &command, &config.lifetimes())
}

impl World {
    /// Looks, decides once, and sends.
    pub(crate) fn operate(&mut self, config: &Config, command: Ordered) {
        self.left.commands -= 1;
        self.operator.number += 1;
        match decide_command(self, config, command) {
            Decision::Write(write) => {
                self.operator.writing = Some((command, write.into()));
                self.operator_send();
            }
            Decision::Answer(_) => self.operator_is_done(),
        }
    }

    pub(crate) fn operator_failed(&mut self) {
        self.operator.unknown = true;
        self.operator_send();
    }

    /// Sends the write that was decided.
    fn operator_send(&mut self) {
        let (command, put) = self.operator.writing.clone().expect("something is to be written");
        let kind = if command == Ordered::Forget { Kind::Forget } else { Kind::Resolve };
        let request = Request { by: By::Operator(self.operator.number), kind, token: 0, put };
        self.operator.pending = Some(Pending { request, age: 0, reply: None });
    }

    pub(crate) fn operator_heard(&mut self, config: &Config, request: Request, reply: Reply) {
        let Operator { unknown, applied, .. } = self.operator;
        match reply {
            Reply::Done(_) => {}
            // What a copy of this very write put there: it is done.
            Reply::Conflict(Some(entry)) if entry.record == request.put.record => {}
            Reply::Conflict(_) => {
                self.events.saw(Sight::Changed);
                self.events.check(Property::LostReplies, unknown || applied == 0);
                if config.planted(Plant::ForgetRetriedNewer) {
                    return self.decide_anew(config);
                }
            }
        }
        self.operator_is_done();
    }

    /// What it must not do.
    fn decide_anew(&mut self, config: &Config) {
        let (command, _) = self.operator.writing.clone().expect("it wrote");
        match decide_command(self, config, command) {
            Decision::Write(write) => {
                self.operator.writing = Some((command, write.into()));
                self.operator_send();
            }
            Decision::Answer(_) => self.operator_is_done(),
        }
    }

    fn operator_is_done(&mut self) {
        self.operator = Operator { number: self.operator.number, ..Operator::default() };
    }
}
