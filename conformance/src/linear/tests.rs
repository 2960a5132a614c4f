//! The checker against hand-made histories and against a plain search; wrong stores against the cases.

mod checker;
mod stores;
