//! The store against real servers. Each test that needs one fails where there is none, saying what to install.

#![allow(clippy::unwrap_used)]

mod completion;
mod deployment;
mod durations;
mod errors;
mod failover;
mod faults;
mod given_up;
mod inbox;
mod killed;
mod kit;
mod left_open;
mod locks;
mod notice;
mod operators;
mod other_server;
mod people;
mod purge;
mod resolve;
mod rolled_back;
mod schema;
mod server_states;
mod spare;
mod sqlx;
mod statements;
mod support;
