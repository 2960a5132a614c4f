//! The checkout example in a real browser: what a visitor clicks, and what the page and the bank then show.
#![allow(clippy::unwrap_used)]

#[path = "../../examples/checkout/app.rs"]
mod app;
#[path = "../../examples/checkout/bank.rs"]
mod bank;
mod driver;
mod left;
#[path = "../../examples/checkout/page.rs"]
mod page;
mod scenarios;
mod screens;
#[path = "../../examples/checkout/switches.rs"]
mod switches;
mod till;
#[path = "../../examples/checkout/visitor.rs"]
mod visitor;
