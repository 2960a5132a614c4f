//! The idempotency key: a scope and an id.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use smallvec::SmallVec;

/// Keys up to this long need no allocation.
const INLINE: usize = 64;

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
#[derive(PartialEq, Eq)]
pub struct Key {
    /// Of the bytes, by SipHash-1-3 under a secret of this process. It is compared before them.
    hash: u64,
    bytes: SmallVec<[u8; INLINE]>,
}

impl Clone for Key {
    #[inline]
    fn clone(&self) -> Self {
        Self { hash: self.hash, bytes: SmallVec::from_slice(&self.bytes) }
    }
}

/// Of the bytes alone: what a hasher is given is the same in every process.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// By the bytes.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
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
    #[error("these bytes are not a stored key; make keys with `Key::new`, and store `Key::as_bytes`")]
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
    #[inline]
    pub fn new(scope: impl AsRef<str>, id: impl AsRef<str>) -> Result<Self, KeyError> {
        Self::of_two(scope.as_ref(), id.as_ref())
    }

    /// In one piece: most keys are of two parts.
    fn of_two(scope: &str, id: &str) -> Result<Self, KeyError> {
        let (scope_len, id_len) = (part_len(scope, "scope")?, part_len(id, "id")?);
        let mut buffer = [0; INLINE];
        let Some(key) = buffer.get_mut(..scope.len() + id.len() + 2) else {
            return Ok(Self::of([&[scope_len], scope.as_bytes(), &[id_len], id.as_bytes()].concat().into()));
        };
        let (first, second) = key.split_at_mut(scope.len() + 1);
        (first[0], second[0]) = (scope_len, id_len);
        first[1..].copy_from_slice(scope.as_bytes());
        second[1..].copy_from_slice(id.as_bytes());
        let len = first.len() + second.len();
        Ok(Self::of(SmallVec::from_buf_and_len(buffer, len)))
    }

    /// Of the stored form; takes the hash.
    #[inline]
    fn of(bytes: SmallVec<[u8; INLINE]>) -> Self {
        static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let mut hasher = SECRET.build_hasher();
        hasher.write(&bytes);
        Self { hash: hasher.finish(), bytes }
    }

    /// Its hash, under a secret of this process: for the tables of this process.
    #[inline]
    pub(crate) fn hash64(&self) -> u64 {
        self.hash
    }

    #[cfg(test)]
    pub(super) fn with_hash(self, hash: u64) -> Self {
        Self { hash, ..self }
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
        Ok(Self::of(bytes))
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
        Ok(Self::of(SmallVec::from_slice(bytes)))
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

fn push_part(bytes: &mut SmallVec<[u8; INLINE]>, part: &str, name: &'static str) -> Result<(), KeyError> {
    bytes.push(part_len(part, name)?);
    bytes.extend_from_slice(part.as_bytes());
    Ok(())
}

/// The length of a part, as its prefix says it.
fn part_len(part: &str, name: &'static str) -> Result<u8, KeyError> {
    if part.is_empty() {
        return Err(KeyError::Empty { part: name });
    }
    u8::try_from(part.len()).map_err(|_| KeyError::TooLong { part: name, len: part.len() })
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

    /// Below, at and above the length that needs no allocation; by both ways of making a key.
    #[test]
    fn a_key_of_two_parts_is_composed_as_one_of_many() {
        for (scope, id) in [(1, 1), (20, 41), (20, 42), (20, 43), (61, 1), (62, 1), (63, 1), (255, 255)] {
            let (scope, id) = ("s".repeat(scope), "i".repeat(id));
            let (one, many) = (Key::new(&scope, &id).unwrap(), Key::scoped([&scope], &id).unwrap());
            assert_eq!(one.as_bytes(), many.as_bytes());
            assert_eq!((one.id(), one.scope_label()), (&id[..], scope));
        }
    }

    /// However it was made, copied or read back.
    #[test]
    fn equal_keys_carry_equal_hashes_and_others_do_not() {
        let part = "x".repeat(Key::PART_LEN_MAX);
        let keys =
            [Key::new("s", "i"), Key::new("s", "j"), Key::new(&part, "i"), Key::scoped([&part; 8], &part)];
        for key in keys.iter().flatten() {
            let scope: Vec<_> = key.scope().collect();
            let again = Key::scoped(scope, key.id()).unwrap();
            for same in [again, key.clone(), Key::from_bytes(key.as_bytes()).unwrap()] {
                assert_eq!((&same, same.hash64()), (key, key.hash64()));
            }
        }
        let hashes: std::collections::BTreeSet<_> = keys.iter().flatten().map(Key::hash64).collect();
        assert_eq!(hashes.len(), keys.len());
    }

    /// A user's own hasher, without a secret, gives a key one hash in every process; and keys are
    /// in the order of their stored form. The hash that they carry has no part in either.
    #[test]
    fn a_hasher_and_an_order_see_the_stored_form_alone() {
        use std::hash::{BuildHasherDefault, DefaultHasher};
        let hashed = |key: &Key| BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let key = Key::new("payments.charge", "7f3a-91").unwrap();
        let bytes = BuildHasherDefault::<DefaultHasher>::default().hash_one(key.as_bytes());
        assert_eq!((hashed(&key), hashed(&key.clone().with_hash(1))), (bytes, bytes));
        let mut keys: Vec<_> = (0..100).map(|i| Key::new("s", format!("{i:03}")).unwrap()).collect();
        let sorted = keys.clone();
        keys.reverse();
        keys.sort();
        assert_eq!(keys, sorted);
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
