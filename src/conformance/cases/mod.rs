//! The list of cases. A case is a function of its name in the file of its clause.

mod s1;

use s1::*;

use super::{Case, Clause, Harness};

/// Hands the list of cases to a macro, after its other argument. A new case is one line here.
#[doc(hidden)]
#[macro_export]
macro_rules! __oncekey_conformance_cases {
    ($callback:path, $argument:expr) => {
        $callback! { $argument;
            S1 s1_of_racing_claims_one_is_done
        }
    };
}

macro_rules! registry {
    ($unused:expr; $($clause:ident $name:ident)*) => {
        pub(super) const NAMES: &[(&str, Clause)] = &[$((stringify!($name), Clause::$clause)),*];

        pub(super) fn registry<H: Harness>() -> Vec<Case<H>> {
            vec![$(Case { name: stringify!($name), clause: Clause::$clause, run: $name }),*]
        }
    };
}

__oncekey_conformance_cases! { registry, () }
