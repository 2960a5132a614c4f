//! The steps that belong to nobody in particular: time, the network, the store.

use oncekey::protocol::Entry;

use crate::config::Config;
use crate::events::{Property, Sight};
use crate::ids::is_of;
use crate::plant::Plant;
use crate::state::{Client, Pending, Phase, Sender, Stage, World};
use crate::store::{By, Kind, Reply, Request};

/// What becomes of a request that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Arrives,
    /// A copy of it is still in the network.
    Copied,
    /// Its reply is lost.
    ReplyLost,
}

impl World {
    /// A tick of the store's clock, and what it is on the others'.
    pub(crate) fn tick(&mut self, config: &Config) {
        // While nobody measures anything, the pattern of the clocks may as well begin anew: fewer states.
        let measures = self.clients.iter().any(Client::measures);
        self.phase = if measures { (self.phase + 1) % config.period } else { 0 };
        self.pass(config, 1);
        for (client, about) in self.clients.iter_mut().zip(&config.clients) {
            client.pass(about.clock.advance(self.phase), config.lease - config.margin);
        }
    }

    /// The store's clock steps forward, and no other.
    pub(crate) fn step_clock(&mut self, config: &Config) {
        self.left.steps -= 1;
        self.pass(config, config.step);
    }

    fn pass(&mut self, config: &Config, ticks: u8) {
        self.store.pass(ticks);
        if self.store.row.is_none() {
            self.truth.gone();
        }
        if config.planted(Plant::VersionsReused) && self.store.row.is_none() {
            self.store.last_version = 0;
        }
    }

    /// The request under way arrives, and is answered.
    ///
    /// An answer that starts or extends somebody's time is on its way for as long as it likes. Any other is heard, or
    /// lost, at once: heard later, it would make its sender do the same later, which those histories show in
    /// which the request itself arrives, or the next one is sent or arrives, later.
    pub(crate) fn arrive(&mut self, config: &Config, sender: Sender, fate: Fate) {
        let request = self.pending(sender).expect("something is under way").request.clone();
        let reply = self.exchange(config, &request);
        let gives_time = sender.is_some_and(|number| self.gives_time(number, &reply));
        self.pending_mut(sender).as_mut().expect("as above").reply = Some(reply);
        match fate {
            Fate::Copied => self.leave_copy(request),
            Fate::ReplyLost => return self.lose_reply(config, sender),
            Fate::Arrives => {}
        }
        if !gives_time {
            self.deliver(config, sender);
        }
    }

    /// Whether it matters to a client when it hears this.
    fn gives_time(&self, number: u8, reply: &Reply) -> bool {
        let client = &self.clients[usize::from(number)];
        let own = match reply {
            Reply::Done(_) => true,
            Reply::Conflict(entry) => entry.as_ref().is_some_and(|entry| is_of(entry, number, client.call)),
        };
        own && match &client.phase {
            Phase::Claiming => true,
            Phase::Holding(held) => matches!(held.stage, Stage::Fresh | Stage::Running),
            Phase::Idle | Phase::CleaningUp => false,
        }
    }

    /// A copy arrives that nobody waits for any more.
    pub(crate) fn arrive_late(&mut self, config: &Config, index: usize) {
        let request = self.late.remove(index);
        let _nobody_hears_it = self.exchange(config, &request);
    }

    /// The request under way is lost, as far as its sender can tell. This may happen at any time after it was sent, so
    /// what the sender does about it follows at once.
    pub(crate) fn lose_request(&mut self, config: &Config, sender: Sender, leaves_copy: bool) {
        self.left.lost -= 1;
        let pending = self.pending_mut(sender).take().expect("something is under way");
        if leaves_copy {
            self.leave_copy(pending.request.clone());
        }
        self.failed(config, sender, pending.request);
    }

    pub(crate) fn lose_reply(&mut self, config: &Config, sender: Sender) {
        self.left.lost -= 1;
        let pending = self.pending_mut(sender).take().expect("something is under way");
        self.failed(config, sender, pending.request);
    }

    fn failed(&mut self, config: &Config, sender: Sender, request: Request) {
        match sender {
            Some(client) => self.client_failed(config, client, request),
            None => self.operator_failed(),
        }
    }

    pub(crate) fn deliver(&mut self, config: &Config, sender: Sender) {
        let Pending { request, age, reply } =
            self.pending_mut(sender).take().expect("something is under way");
        let reply = reply.expect("it is answered");
        match sender {
            Some(client) => self.client_heard(config, client, request, age, reply),
            None => self.operator_heard(config, request, reply),
        }
    }

    pub(crate) fn leave_copy(&mut self, request: Request) {
        self.left.late -= 1;
        self.late.push(request);
        self.late.sort_by_key(|request| (request.by, request.kind, request.token));
    }

    /// Copies that can do nothing any more are forgotten, for fewer states: a version never comes again.
    pub(crate) fn drop_dead_copies(&mut self) {
        let store = &self.store;
        self.late.retain(|copy| {
            copy.put.expected == oncekey::protocol::Expected::Vacant || store.is_as(copy.put.expected)
        });
    }

    fn exchange(&mut self, config: &Config, request: &Request) -> Reply {
        let before = self.store.read();
        let force = request.kind == Kind::Complete && config.planted(Plant::CompletionAtAnyVersion);
        let reply = self.store.exchange(&request.put, force);
        match &reply {
            Reply::Done(version) => {
                let after = request.put.clone().entry(*version);
                self.truth.applied(request, before.as_ref(), &after, &mut self.events);
                self.note_applied(request, &after);
            }
            Reply::Conflict(Some(entry)) => self.truth.shown(entry, &mut self.events),
            Reply::Conflict(None) => {}
        }
        reply
    }

    /// Its sender does not know of it, but what it is told later is judged by it.
    fn note_applied(&mut self, request: &Request, after: &Entry) {
        match request.by {
            By::Client(number, call) => {
                let client = &mut self.clients[usize::from(number)];
                if client.call != call || client.phase == Phase::Idle {
                    if request.put.grants() {
                        self.events.saw(Sight::OrphanClaim);
                    }
                } else if request.kind == Kind::Claim {
                    client.granted |= 1 << after.fencing_token().get();
                } else {
                    client.applied |= request.kind.bit();
                }
            }
            By::Operator(number) => {
                if self.operator.number == number {
                    self.operator.applied += 1;
                    self.events.check(Property::LostReplies, self.operator.applied <= 1);
                }
            }
        }
    }
}
