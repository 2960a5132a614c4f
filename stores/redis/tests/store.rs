//! What only a Redis server can show: what is stored, what is refused, what the errors say, and how many round trips it
//! takes.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "store/batches.rs"]
mod batches;
#[path = "store/full.rs"]
mod full;
#[path = "store/listing.rs"]
mod listing;
#[path = "store/other_server.rs"]
mod other_server;
#[path = "store/outages.rs"]
mod outages;
#[path = "store/record.rs"]
mod record;
#[path = "store/replicas.rs"]
mod replicas;
#[path = "store/round_trips.rs"]
mod round_trips;
#[path = "store/startup.rs"]
mod startup;
#[path = "store/states.rs"]
mod states;
