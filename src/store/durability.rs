//! What a store says about what it may lose.

use std::borrow::Cow;
use std::fmt;

/// What outlives what: how durable a `Done` is, and every entry answered (clause S9).
///
/// From weak to strong; what a class survives, the stronger ones survive too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum DurabilityClass {
    /// The store does not say. Take it for the weakest.
    Undeclared,
    /// Acknowledged writes are gone when the process ends.
    Process,
    /// They survive the end of the process; a power loss, or a crash of the machine, can lose the latest of them.
    Machine,
    /// They survive a power loss: each is flushed to disk before it is acknowledged.
    Disk,
    /// They survive the loss of a machine: each is on a quorum of machines before it is acknowledged.
    Quorum,
}

/// What a store declares about its durability, for people and for the certificate of the conformance kit.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Durability {
    /// The class.
    pub class: DurabilityClass,
    /// What is lost when, and how the store's clock may step, in a sentence or two.
    pub about: Cow<'static, str>,
}

impl Durability {
    /// A declaration.
    pub fn new(class: DurabilityClass, about: impl Into<Cow<'static, str>>) -> Self {
        Self { class, about: about.into() }
    }

    /// No declaration.
    pub const fn undeclared() -> Self {
        Self { class: DurabilityClass::Undeclared, about: Cow::Borrowed("") }
    }
}

impl fmt::Display for DurabilityClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undeclared => "undeclared",
            Self::Process => "process (gone when the process ends)",
            Self::Machine => "machine (survives the process; a power loss can lose the latest)",
            Self::Disk => "disk (survives a power loss)",
            Self::Quorum => "quorum (survives the loss of a machine)",
        })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.about {
            "" => self.class.fmt(f),
            about => write!(f, "{}: {about}", self.class),
        }
    }
}
