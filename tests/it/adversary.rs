//! Found by a reviewer who tried to break it.

mod answers;
mod stalls;
mod turns;
