//! The idempotency key: a scope and an id.

use std::fmt;

use smallvec::SmallVec;

/// Names one logical operation: a scope of one or more components (operation, tenant ..) and an id within it.
///
/// Each part is text of 1 to [`Key::PART_LEN_MAX`] bytes, taken as it is: case, accents, trailing spaces and
/// NUL all count. The stored form prefixes every part with its length, so no two different keys share bytes,
/// whatever characters their parts contain.
///
/// `Debug` and [`Key::scope_label`] show the scope and hide the id, which may be customer data.
///
/// ```
/// use oncekey::Key;
/// let key = Key::new("payments.charge", "7f3a-91")?;
/// let tenant = Key::scoped(["payments.charge", "tenant-9"], "7f3a-91")?;
/// assert_ne!(key, tenant);
/// assert_eq!(tenant.id(), "7f3a-91");
/// assert!(Key::new("payments.charge", "").is_err());
/// # Ok::<(), oncekey::protocol::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    bytes: SmallVec<[u8; 64]>,
}

/// A key that cannot be used; the store was not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The id, or a component of the scope, has no bytes. An absent key must not become one key shared by all.
    #[error("the {part} of the key is empty; give each part 1 to 255 bytes, or do not ask for deduplication")]
    Empty {
        /// Which part: `id`, or `scope`.
        part: &'static str,
    },
    /// The id, or a component of the scope, is too long.
    #[error("the {part} of the key has {len} bytes; a part has at most 255. Use a digest of it")]
    TooLong {
        /// Which part: `id`, or `scope`.
        part: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// The scope has no component, or too many.
    #[error("the scope of the key has {count} components; it takes 1 to 8")]
    Components {
        /// How many components were given.
        count: usize,
    },
    /// Stored bytes that are not the bytes of a key.
    #[error("these bytes are not those of a key")]
    Malformed,
}

impl Key {
    /// Most bytes of one part.
    pub const PART_LEN_MAX: usize = 255;
    /// Most components of a scope.
    pub const SCOPE_COMPONENTS_MAX: usize = 8;
    /// Most bytes of a whole stored key: nine parts with a length byte each.
    pub const LEN_MAX: usize = (Self::SCOPE_COMPONENTS_MAX + 1) * (Self::PART_LEN_MAX + 1);

    /// A key whose scope is one component.
    ///
    /// # Errors
    /// [`KeyError`] if a part is empty or longer than 255 bytes.
    pub fn new(scope: impl AsRef<str>, id: impl AsRef<str>) -> Result<Self, KeyError> {
        Self::scoped([scope], id)
    }

    /// A key whose scope has several components, outermost first.
    ///
    /// # Errors
    /// [`KeyError`] if a part is empty or longer than 255 bytes, or the scope has no or more than 8 components.
    pub fn scoped<P: AsRef<str>>(
        scope: impl IntoIterator<Item = P>,
        id: impl AsRef<str>,
    ) -> Result<Self, KeyError> {
        let mut bytes = SmallVec::new();
        let mut count = 0;
        for component in scope {
            count += 1;
            if count <= Self::SCOPE_COMPONENTS_MAX {
                push_part(&mut bytes, component.as_ref(), "scope")?;
            }
        }
        if count == 0 || count > Self::SCOPE_COMPONENTS_MAX {
            return Err(KeyError::Components { count });
        }
        push_part(&mut bytes, id.as_ref(), "id")?;
        Ok(Self { bytes })
    }

    /// The stored form: each part as one length byte and its bytes, the id last.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads the stored form back.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] if the bytes are not the stored form of a key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut rest = bytes;
        let mut parts = 0;
        while let Some((&len, tail)) = rest.split_first() {
            let part = tail.get(..usize::from(len)).ok_or(KeyError::Malformed)?;
            if len == 0 || std::str::from_utf8(part).is_err() {
                return Err(KeyError::Malformed);
            }
            rest = &tail[part.len()..];
            parts += 1;
        }
        if !(2..=Self::SCOPE_COMPONENTS_MAX + 1).contains(&parts) {
            return Err(KeyError::Malformed);
        }
        Ok(Self { bytes: SmallVec::from_slice(bytes) })
    }

    /// The components of the scope, outermost first.
    pub fn scope(&self) -> impl Iterator<Item = &str> {
        let count = self.parts().count() - 1;
        self.parts().take(count)
    }

    /// The id within the scope.
    pub fn id(&self) -> &str {
        self.parts().last().expect("a key has an id by construction")
    }

    /// The scope for messages and logs: components joined by `/`. Not unique, and not for storing.
    pub fn scope_label(&self) -> String {
        let mut label = String::new();
        for component in self.scope() {
            if !label.is_empty() {
                label.push('/');
            }
            label.push_str(component);
        }
        label
    }

    fn parts(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            let (part, tail) = tail.split_at(usize::from(len));
            rest = tail;
            Some(std::str::from_utf8(part).expect("a key holds text by construction"))
        })
    }
}

fn push_part(bytes: &mut SmallVec<[u8; 64]>, part: &str, name: &'static str) -> Result<(), KeyError> {
    if part.is_empty() {
        return Err(KeyError::Empty { part: name });
    }
    let len = u8::try_from(part.len()).map_err(|_| KeyError::TooLong { part: name, len: part.len() })?;
    bytes.push(len);
    bytes.extend_from_slice(part.as_bytes());
    Ok(())
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, id of {} bytes)", self.scope_label(), self.id().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scopes_that_concatenate_alike_are_distinct() {
        let keys = [
            Key::scoped(["ab", "c"], "d").unwrap(),
            Key::scoped(["a", "bc"], "d").unwrap(),
            Key::scoped(["abc"], "d").unwrap(),
            Key::scoped(["ab"], "cd").unwrap(),
            Key::scoped(["a", "b", "c"], "d").unwrap(),
            Key::new("abc", "D").unwrap(),
            Key::new("abc", "d ").unwrap(),
            Key::new("abc", "d\0").unwrap(),
            Key::new("abc", "d\u{301}").unwrap(),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().map(Key::as_bytes).collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn bad_parts_are_refused_by_name() {
        let long = "x".repeat(256);
        assert_eq!(Key::new("s", ""), Err(KeyError::Empty { part: "id" }));
        assert_eq!(Key::new("", "i"), Err(KeyError::Empty { part: "scope" }));
        assert_eq!(Key::new("s", &long), Err(KeyError::TooLong { part: "id", len: 256 }));
        assert_eq!(Key::new(&long, "i"), Err(KeyError::TooLong { part: "scope", len: 256 }));
        assert_eq!(Key::scoped([""; 0], "i"), Err(KeyError::Components { count: 0 }));
        assert_eq!(Key::scoped(["s"; 9], "i"), Err(KeyError::Components { count: 9 }));
        assert!(Key::scoped(["s"; 8], &long[..255]).is_ok());
    }

    /// Eight components and the id, each of 255 bytes: what a store's key column must have room for.
    #[test]
    fn the_longest_key_has_the_length_that_stores_reckon_with() {
        let part = "x".repeat(Key::PART_LEN_MAX);
        let longest = Key::scoped([&part; 8], &part).unwrap();
        assert_eq!(longest.as_bytes().len(), Key::LEN_MAX);
        assert_eq!(Key::from_bytes(longest.as_bytes()), Ok(longest));
    }

    #[test]
    fn bytes_that_no_key_has_are_malformed() {
        let part = |count: usize| b"\x01x".repeat(count);
        for (bytes, why) in [
            (&b""[..], "no part"),
            (&part(1), "an id without a scope"),
            (&part(10), "nine components"),
            (b"\x01x\x00", "an empty part"),
            (b"\x01x\x01\xff", "a part that is not text"),
            (b"\x01x\x02x", "a part cut short"),
        ] {
            assert_eq!(Key::from_bytes(bytes), Err(KeyError::Malformed), "{why}");
        }
        assert!(Key::from_bytes(&part(2)).is_ok() && Key::from_bytes(&part(9)).is_ok());
    }

    #[test]
    fn debug_hides_the_id() {
        let shown = format!("{:?}", Key::scoped(["a", "b"], "secret").unwrap());
        assert_eq!(shown, "Key(\"a/b\", id of 6 bytes)");
    }

    proptest! {
        #[test]
        fn the_stored_form_is_injective_and_reads_back(
            a in prop::collection::vec("\\PC{1,12}", 2..6), b in prop::collection::vec("\\PC{1,12}", 2..6),
        ) {
            let make = |parts: &[String]| Key::scoped(&parts[1..], &parts[0]).unwrap();
            let (one, two) = (make(&a), make(&b));
            prop_assert_eq!(a == b, one.as_bytes() == two.as_bytes());
            prop_assert_eq!(&Key::from_bytes(one.as_bytes()).unwrap(), &one);
            prop_assert_eq!(one.scope().collect::<Vec<_>>(), a[1..].iter().collect::<Vec<_>>());
        }

        #[test]
        fn whatever_reads_as_a_key_is_one(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(key) = Key::from_bytes(&bytes) {
                let made = Key::scoped(key.scope(), key.id()).unwrap();
                prop_assert_eq!(made.as_bytes(), &bytes[..]);
            }
        }
    }
}
