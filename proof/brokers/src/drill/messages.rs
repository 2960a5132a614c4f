//! The messages of a drill: orders to ship, some of them twice, and a few that go wrong.

/// One publication of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Which publication it is, from 0. The consumers need it for nothing: by it the drill sees that each was disposed of.
    pub number: u32,
    /// The producer's name for the message: the same for all its copies.
    pub id: String,
    /// The order.
    pub body: String,
    /// Whether the producer also gives it the id that the broker's own dedup looks at.
    pub named_to_broker: bool,
}

/// All that is published. `soon` first; `late` when the window of the broker's own dedup is over.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// Each message, and some of the duplicates, right behind the first or some 55 places later.
    pub soon: Vec<Copy>,
    /// The rest of the duplicates.
    pub late: Vec<Copy>,
}

/// How a message goes wrong in its handler, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It ships.
    Ordinary,
    /// Its process ends in the middle, each time.
    Poison,
    /// It fails for good.
    Refused,
    /// It fails, without effect, until that was decided on once.
    Busy,
}

/// The body of the second message under an id that was given to two.
pub const OTHER: &str = "ship it somewhere else";

impl Kind {
    /// The kind of a message of this body.
    pub fn of(body: &str) -> Self {
        match body {
            "poison" => Self::Poison,
            "refuse" => Self::Refused,
            "busy" => Self::Busy,
            _ => Self::Ordinary,
        }
    }
}

impl Messages {
    /// So many messages, at least 100, a fifth of them published twice. With `trouble`, also those that go wrong: one that
    /// is poison, two each that are refused and busy, one whose id is given to another message.
    ///
    /// # Panics
    /// If there are fewer than 100.
    pub fn plan(messages: usize, trouble: bool) -> Self {
        assert!(messages >= 100, "fewer than 100 messages show nothing");
        let mut plan = Self::default();
        // Where they are to come, and what is to come there again.
        let mut again: Vec<(usize, usize)> = Vec::new();
        for place in 0..messages {
            let body = match place {
                20 if trouble => "poison".to_owned(),
                // Not in the poll of the poison. Of each of the two, one comes twice.
                73 | 75 if trouble => "refuse".to_owned(),
                83 | 85 if trouble => "busy".to_owned(),
                _ => format!("ship {place}"),
            };
            let (near, far) = (place % 10 == 3, place % 10 == 7);
            let id = format!("order-{place:05}");
            plan.soon.push(Copy { number: 0, id: id.clone(), body: body.clone(), named_to_broker: far });
            if far {
                plan.late.push(Copy { number: 0, id, body, named_to_broker: true });
            } else if near {
                // In the same poll, and, for the other half, in that of another process at the same time.
                again.push((place + if place % 20 == 3 { 0 } else { 55 }, plan.soon.len() - 1));
            }
            let due: Vec<usize> = again.iter().filter(|(due, _)| *due == place).map(|(_, of)| *of).collect();
            again.retain(|(due, _)| *due != place);
            plan.soon.extend(due.iter().map(|of| plan.soon[*of].clone()).collect::<Vec<_>>());
        }
        plan.soon.extend(again.iter().map(|(_, of)| plan.soon[*of].clone()).collect::<Vec<_>>());
        if trouble {
            let id = plan.soon[0].id.clone();
            plan.late.push(Copy { number: 0, id, body: OTHER.to_owned(), named_to_broker: false });
        }
        for (number, copy) in (0..).zip(plan.soon.iter_mut().chain(&mut plan.late)) {
            copy.number = number;
        }
        plan
    }

    /// All copies, in the order of their numbers.
    pub fn copies(&self) -> impl Iterator<Item = &Copy> {
        self.soon.iter().chain(&self.late)
    }

    /// How many are published.
    pub fn len(&self) -> usize {
        self.soon.len() + self.late.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_fifth_comes_twice_and_each_trouble_is_there() {
        let plan = Messages::plan(5_000, true);
        let mut bodies: HashMap<&str, Vec<&str>> = HashMap::new();
        for (number, copy) in (0..).zip(plan.copies()) {
            assert_eq!(copy.number, number);
            bodies.entry(&copy.id).or_default().push(&copy.body);
        }
        assert_eq!(bodies.len(), 5_000);
        assert_eq!(plan.len(), 6_001);
        let twice = bodies.values().filter(|bodies| bodies.len() == 2 && bodies[0] == bodies[1]).count();
        assert_eq!(twice, 1_000);
        let of = |kind| bodies.values().filter(|bodies| Kind::of(bodies[0]) == kind).count();
        assert_eq!([Kind::Poison, Kind::Refused, Kind::Busy].map(of), [1, 2, 2]);
        assert_eq!(bodies.values().filter(|bodies| bodies.contains(&OTHER)).count(), 1);
        // Adjacent, or a poll apart.
        let apart = |copy: &Copy| {
            plan.soon.iter().rev().find(|other| other.id == copy.id).unwrap().number - copy.number
        };
        let distances: Vec<_> = plan.soon.iter().map(apart).filter(|apart| *apart > 0).collect();
        assert_eq!(distances.iter().filter(|apart| **apart == 1).count(), 250);
        assert!(distances.iter().all(|apart| *apart < 80), "{distances:?}");
        assert!(Messages::plan(100, false).copies().all(|copy| Kind::of(&copy.body) == Kind::Ordinary));
    }
}
