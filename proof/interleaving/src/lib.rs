//! The engine over the embedded store, under other interleavings than those of a test machine. All of it is in `tests/`:
//! `loom.rs` and `shuttle.rs` say how to run them, and what they show.
