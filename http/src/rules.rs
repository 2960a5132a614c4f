//! What is done with a request before its body is read: pure, from its parts alone.

use http::request::Parts;
use oncekey::Key;

use crate::key;
use crate::options::Options;
use crate::problem::Situation;
use crate::scope;

/// What is done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It goes to the service untouched.
    Pass,
    /// It is refused.
    Refuse(Situation),
    /// It is one operation, under this key.
    Keyed(Key),
}

impl Options {
    /// Looks at a request.
    pub(crate) fn before(&self, parts: &Parts) -> Before {
        // The draft's section 1: POST and PATCH are not idempotent by themselves, the others are.
        if !self.methods.contains(&parts.method) {
            return Before::Pass;
        }
        let id = match key::read(parts.headers.get_all(&self.field), self.syntax) {
            Ok(Some(id)) => id,
            // The draft's section 2.7: "If the Idempotency-Key request header is missing for a
            // documented idempotent operation requiring this header, the resource SHOULD reply with
            // an HTTP 400 status code with body containing a link pointing to relevant
            // documentation." The link is the problem's type.
            Ok(None) if (self.required)(parts) => return Before::Refuse(Situation::KeyMissing),
            Ok(None) => return Before::Pass,
            Err(problem) => return Before::Refuse(Situation::KeyMalformed(problem)),
        };
        let Some(principal) = self.principal.of(parts) else {
            return Before::Refuse(Situation::NoPrincipal);
        };
        match scope::key(parts, &self.namespace, &self.route, &principal, &id) {
            // Of a layer outside of this one: whoever holds a key cannot wait for it.
            Ok(key) if parts.extensions.get::<Claimed>().is_some_and(|claimed| claimed.0.contains(&key)) => {
                Before::Pass
            }
            Ok(key) => Before::Keyed(key),
            // What can be wrong with a key, `key::read` has refused.
            Err(_) => Before::Refuse(Situation::KeyMalformed(key::KeyProblem::TooLong)),
        }
    }
}

/// The keys under which a request is being carried out, in its extensions.
#[derive(Clone, Default)]
struct Claimed(Vec<Key>);

/// Marks what is handed on as carried out under this key.
pub(crate) fn claimed_for(parts: &mut Parts, key: Key) {
    parts.extensions.get_or_insert_default::<Claimed>().0.push(key);
}
