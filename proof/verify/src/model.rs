//! The model as the checker sees it: which steps are possible in a state, and what must hold there.

use oncekey::protocol::Expected;
use stateright::{Model, Property as Claim};

use crate::config::{Config, End, Ordered};
use crate::events::{Events, Property, Sight};
use crate::state::{Phase, Sender, Stage, Step, World};
use crate::store::Reply;
use crate::world::Fate;

/// A configuration under check, with the sights that it is to show.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) config: Config,
    pub(crate) sights: Vec<Sight>,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// A tick of the store's clock.
    Tick,
    /// The store's clock steps forward.
    StepClock,
    /// A client begins a call.
    Begin(u8),
    Renew(u8),
    Checkpoint(u8),
    /// The operation ends.
    End(u8, End),
    /// The call gives up; its request under way may stay in the network.
    GiveUp(u8, Copy),
    /// The call gives up with a grant that it was just told of.
    DropGrant(u8),
    /// What a call that gave up left is looked for.
    CleanUp(u8),
    Crash(u8, Copy),
    /// A request arrives at the store.
    Arrive(Sender, Fate),
    LoseRequest(Sender, Copy),
    LoseReply(Sender),
    /// An answer arrives.
    Deliver(Sender),
    /// A copy in the network arrives.
    ArriveLate(u8),
    Operate(Ordered),
}

/// Whether a copy of a request stays in the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Copy {
    Left,
    No,
}

impl Checked {
    fn client_actions(&self, world: &World, number: u8, actions: &mut Vec<Action>) {
        let client = &world.clients[usize::from(number)];
        let config = &self.config;
        match &client.phase {
            Phase::Idle => {
                if usize::from(client.call) < config.clients[usize::from(number)].asks.len() {
                    actions.push(Action::Begin(number));
                }
                return;
            }
            Phase::Claiming => {
                if world.left.give_ups > 0 {
                    self.with_copy(world, number, actions, |copy| Action::GiveUp(number, copy));
                    let reply = client.pending.as_ref().and_then(|pending| pending.reply.as_ref());
                    if matches!(reply, Some(Reply::Done(_))) {
                        actions.push(Action::DropGrant(number));
                    }
                }
            }
            Phase::CleaningUp => actions.push(Action::CleanUp(number)),
            Phase::Holding(held) => match held.stage {
                Stage::Running => {
                    if held.writing.is_none() && world.left.renewals > 0 {
                        actions.extend([Action::Renew(number), Action::Checkpoint(number)]);
                    }
                    actions.extend(config.ends.iter().map(|end| Action::End(number, *end)));
                }
                Stage::Fresh | Stage::Ended(_) | Stage::Concluding => {}
            },
        }
        // An operation whose deadline has passed is dropped; the call is over as if it had crashed.
        let dropped = matches!(&client.phase, Phase::Holding(held) if held.stage == Stage::Running && held.time_left == 0);
        if world.left.crashes > 0 || dropped {
            self.with_copy(world, number, actions, |copy| Action::Crash(number, copy));
        }
    }

    /// A step after which nobody waits for the request under way, which may be lost, or be on its way for longer.
    fn with_copy(
        &self,
        world: &World,
        number: u8,
        actions: &mut Vec<Action>,
        action: impl Fn(Copy) -> Action,
    ) {
        actions.push(action(Copy::No));
        let under_way = world.pending(Some(number)).is_some_and(|pending| pending.reply.is_none());
        if under_way && world.left.late > 0 {
            actions.push(action(Copy::Left));
        }
    }

    fn network_actions(world: &World, sender: Sender, actions: &mut Vec<Action>) {
        let Some(pending) = world.pending(sender) else { return };
        if pending.reply.is_some() {
            actions.push(Action::Deliver(sender));
            if world.left.lost > 0 {
                actions.push(Action::LoseReply(sender));
            }
            return;
        }
        actions.push(Action::Arrive(sender, Fate::Arrives));
        // A second copy of a put at a version finds that version gone, and is left out, for fewer states.
        if world.left.late > 0 && pending.request.put.expected == Expected::Vacant {
            actions.push(Action::Arrive(sender, Fate::Copied));
        }
        if world.left.lost > 0 {
            actions.push(Action::Arrive(sender, Fate::ReplyLost));
            actions.push(Action::LoseRequest(sender, Copy::No));
            if world.left.late > 0 {
                actions.push(Action::LoseRequest(sender, Copy::Left));
            }
        }
    }
}

impl Model for Checked {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.config)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        if world.left.steps > 0 {
            actions.push(Action::StepClock);
        }
        for (number, _) in (0_u8..).zip(&world.clients) {
            self.client_actions(world, number, actions);
            Self::network_actions(world, Some(number), actions);
        }
        Self::network_actions(world, None, actions);
        if world.operator.writing.is_none() && world.left.commands > 0 && world.store.row.is_some() {
            actions.extend(self.config.commands.iter().map(|command| Action::Operate(*command)));
        }
        actions.extend((0_u8..).zip(&world.late).map(|(index, _)| Action::ArriveLate(index)));
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let config = &self.config;
        let mut world = last.clone();
        world.events = Events::default();
        match action {
            Action::Tick => world.tick(config),
            Action::StepClock => world.step_clock(config),
            Action::Begin(number) => world.begin(config, number),
            Action::Renew(number) => world.keep(config, number, Step::Renew),
            Action::Checkpoint(number) => world.keep(config, number, Step::Checkpoint),
            Action::End(number, end) => world.end_operation(config, number, end),
            Action::GiveUp(number, copy) => world.give_up(number, copy == Copy::Left),
            Action::DropGrant(number) => world.drop_grant(config, number),
            Action::CleanUp(number) => world.clean_up(config, number),
            Action::Crash(number, copy) => world.crash(number, copy == Copy::Left),
            Action::Arrive(sender, fate) => world.arrive(config, sender, fate),
            Action::LoseRequest(sender, copy) => world.lose_request(config, sender, copy == Copy::Left),
            Action::LoseReply(sender) => world.lose_reply(config, sender),
            Action::Deliver(sender) => world.deliver(config, sender),
            Action::ArriveLate(index) => world.arrive_late(config, index.into()),
            Action::Operate(command) => world.operate(config, command),
        }
        world.drop_dead_copies();
        Some(world)
    }

    fn properties(&self) -> Vec<Claim<Self>> {
        let always =
            Property::ALL.iter().map(|property| Claim::always(property.text(), must_hold(*property)));
        let sometimes = self.sights.iter().map(|sight| Claim::sometimes(sight.text(), is_seen(*sight)));
        always.chain(sometimes).collect()
    }
}

type Condition = fn(&Checked, &World) -> bool;

macro_rules! conditions {
    ($which:expr, $type:ident, $condition:ident: $($member:ident)*) => {
        match $which {
            $($type::$member => |_, world| $condition(world, $type::$member),)*
        }
    };
}

// The checker takes plain functions, which capture nothing: one for each.
fn must_hold(property: Property) -> Condition {
    conditions!(property, Property, holds:
        OneOutcome StaleIsInert Fencing NoUnclaimedRun Binding LostReplies NoOverlap DoubtIsKept HoldIsObeyed
        OneOperationId OperatorsKeepOff)
}

fn is_seen(sight: Sight) -> Condition {
    conditions!(sight, Sight, seen:
        Takeover LateCompletionAccepted LateCompletionRefused InDoubt OwnClaimRecognised OwnClaimRenewed DoubtKept
        ClaimAfterRelease Forgotten Resolved Replay Mismatch InProgress LateGrantRenewed RenewalRecognised
        CompletionRecognised PossiblyApplied Unknown Ghost OrphanClaim GivenUp Changed Done Exhausted NewGeneration)
}

fn holds(world: &World, property: Property) -> bool {
    match property {
        Property::NoOverlap => world.executing() <= 1,
        _ => !world.events.has_broken(property),
    }
}

fn seen(world: &World, sight: Sight) -> bool {
    world.events.has_seen(sight)
}
