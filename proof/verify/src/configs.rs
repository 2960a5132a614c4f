//! The configurations: those for every change, those on demand, and one for each planted bug.

use oncekey::Policy;

use crate::config::{Ask, Budget, ClientConfig, Clock, Config, End, Ordered};
use crate::plant::Plant;

const RECLAIM: Ask = Ask { policy: Policy::Reclaim, fingerprint: 1 };
const HOLD: Ask = Ask { policy: Policy::Hold, fingerprint: 1 };
const OTHER: Ask = Ask { policy: Policy::Reclaim, fingerprint: 2 };
const NOTHING: Budget =
    Budget { lost: 0, late: 0, crashes: 0, renewals: 0, give_ups: 0, commands: 0, steps: 0 };

/// Clocks that lose, or gain, half of the lease against the store's: all that the margin allows.
const CLOCKS: [Clock; 3] = [Clock::Slow(2), Clock::Fast(2), Clock::Exact];

fn config(name: &'static str, asks: &[&[Ask]], ends: &[End], budget: Budget) -> Config {
    let client = |(asks, clock): (&&[Ask], Clock)| ClientConfig { asks: asks.to_vec(), clock };
    Config {
        name,
        clients: asks.iter().zip(CLOCKS).map(client).collect(),
        lease: 2,
        margin: 1,
        retention: 2,
        tail: 0,
        attempts_max: None,
        step: 2,
        period: 2,
        budget,
        commands: Vec::new(),
        ends: ends.to_vec(),
        plant: None,
    }
}

/// What runs for every change: two clients. Each holds all properties, and together they show all sights.
pub(crate) fn for_every_change() -> Vec<Config> {
    use End::{NoEffect, NoEffectFreshId, Outcome, Unknown};
    use Ordered::{Forget, ResolveCompleted, ResolveNoEffect};
    let one: &[&[Ask]] = &[&[RECLAIM], &[RECLAIM]];
    vec![
        config(
            "lost requests and replies",
            one,
            &[Outcome, NoEffect, Unknown],
            Budget { lost: 1, ..NOTHING },
        ),
        config("lost twice", one, &[Outcome], Budget { lost: 2, ..NOTHING }),
        config("late and doubled requests", one, &[Outcome], Budget { lost: 1, late: 1, ..NOTHING }),
        config("renewals and checkpoints", one, &[Outcome], Budget { lost: 1, renewals: 1, ..NOTHING }),
        config(
            "crash and restart",
            &[&[RECLAIM, RECLAIM], &[RECLAIM]],
            &[Outcome, NoEffect],
            Budget { crashes: 1, ..NOTHING },
        ),
        config("calls given up", one, &[Outcome], Budget { give_ups: 1, late: 1, ..NOTHING }),
        Config {
            commands: vec![Forget],
            ..config("forget", one, &[Outcome], Budget { lost: 1, commands: 1, ..NOTHING })
        },
        Config {
            commands: vec![ResolveCompleted, ResolveNoEffect],
            ..config("resolve", one, &[Outcome, NoEffect, Unknown], Budget { commands: 1, ..NOTHING })
        },
        Config {
            commands: vec![ResolveCompleted, ResolveNoEffect],
            ..config(
                "hold",
                &[&[HOLD], &[RECLAIM, RECLAIM]],
                &[Outcome, Unknown],
                Budget { commands: 1, ..NOTHING },
            )
        },
        Config {
            tail: 1,
            ..config(
                "other requests",
                &[&[RECLAIM, OTHER], &[RECLAIM]],
                &[Outcome, NoEffectFreshId, Unknown],
                NOTHING,
            )
        },
        Config {
            attempts_max: Some(1),
            ..config("a limit of attempts", one, &[Outcome, NoEffect, Unknown], Budget { lost: 1, ..NOTHING })
        },
    ]
}

/// A step of the store's clock beyond the margin: T1 breaks, and nothing else does.
pub(crate) fn clock_step() -> Config {
    let ends = [End::Outcome, End::NoEffect];
    config(
        "a step of the store's clock",
        &[&[RECLAIM], &[RECLAIM]],
        &ends,
        Budget { steps: 1, lost: 1, ..NOTHING },
    )
}

/// Three clients, in minutes: on demand.
pub(crate) fn three_clients() -> Vec<Config> {
    let one: &[&[Ask]] = &[&[RECLAIM], &[RECLAIM], &[RECLAIM]];
    vec![
        config("three clients", one, &[End::Outcome], NOTHING),
        config(
            "three clients, hold",
            &[&[HOLD], &[RECLAIM], &[RECLAIM]],
            &[End::Outcome, End::Unknown],
            NOTHING,
        ),
        config("three clients, a crash", one, &[End::Outcome], Budget { crashes: 1, ..NOTHING }),
    ]
}

/// Where this bug shows.
pub(crate) fn planted(plant: Plant) -> Config {
    let one: &[&[Ask]] = &[&[RECLAIM], &[RECLAIM]];
    let ends = &[End::Outcome];
    let lost = Budget { lost: 1, ..NOTHING };
    let config = match plant {
        Plant::DeadlineFromResend
        | Plant::ErrorTakenForGrant
        | Plant::ErrorTakenForRefusal
        | Plant::WaitsForItself => config("", one, ends, lost),
        Plant::GhostAdopted => config("", &[&[RECLAIM]], ends, Budget { late: 1, ..NOTHING }),
        Plant::ForgetRetriedNewer => Config {
            commands: vec![Ordered::Forget],
            ..config("", one, ends, Budget { commands: 1, ..lost })
        },
        Plant::NoMargin => Config { margin: 0, ..config("", one, ends, NOTHING) },
        Plant::ReleaseForgetsDoubt => config("", one, &[End::NoEffect], NOTHING),
        Plant::HoldIgnored => config("", &[&[HOLD], &[RECLAIM]], ends, NOTHING),
        Plant::FingerprintIgnored => config("", &[&[RECLAIM], &[OTHER]], ends, NOTHING),
        Plant::TakeoverWithoutDoubt
        | Plant::CompletionAtAnyVersion
        | Plant::LateGrantStarted
        | Plant::VersionsReused => config("", one, ends, NOTHING),
    };
    Config { plant: Some(plant), ..config }
}
