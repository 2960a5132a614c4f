//! A map by keys, which hashes nothing: each key carries its hash.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Key;

/// By the hash of a secret of this process, so that nobody who chooses keys can make them collide.
pub(crate) struct KeyMap<V>(HashTable<(Key, V)>);

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        Self(HashTable::new())
    }
}

impl<V> KeyMap<V> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&V> {
        self.0.find(key.hash64(), |(known, _)| known == key).map(|(_, value)| value)
    }

    pub(crate) fn get_or_insert_with(&mut self, key: &Key, value: impl FnOnce() -> V) -> &mut V {
        match self.entry(key) {
            Entry::Occupied(there) => &mut there.into_mut().1,
            Entry::Vacant(place) => &mut place.insert((key.clone(), value())).into_mut().1,
        }
    }

    /// Puts `value` under `key`; answers what was there.
    pub(crate) fn insert(&mut self, key: &Key, value: V) -> Option<V> {
        match self.entry(key) {
            Entry::Occupied(mut there) => Some(std::mem::replace(&mut there.get_mut().1, value)),
            Entry::Vacant(place) => {
                place.insert((key.clone(), value));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<V> {
        let there = self.0.find_entry(key.hash64(), |(known, _)| known == key).ok()?;
        Some(there.remove().0.1)
    }

    fn entry(&mut self, key: &Key) -> Entry<'_, (Key, V)> {
        self.0.entry(key.hash64(), |(known, _)| known == key, |(known, _)| known.hash64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> Key {
        Key::new("s", id.to_string()).unwrap()
    }

    #[test]
    fn it_holds_what_was_put_last_under_each_key() {
        let mut map = KeyMap::default();
        for id in 0..1000 {
            assert_eq!(map.insert(&key(id), id), None);
        }
        assert_eq!((map.insert(&key(7), 70), map.get(&key(7)), map.len()), (Some(7), Some(&70), 1000));
        assert_eq!(*map.get_or_insert_with(&key(7), || unreachable!("it is there")), 70);
        *map.get_or_insert_with(&key(1000), || 1) += 1;
        assert_eq!(map.get(&key(1000)), Some(&2));
        assert_eq!((map.remove(&key(7)), map.remove(&key(7)), map.get(&key(7))), (Some(70), None, None));
        assert!((0..1000).filter(|id| *id != 7).all(|id| map.get(&key(id)) == Some(&id)));
    }

    #[test]
    fn keys_whose_hashes_are_equal_are_distinct() {
        let mut map = KeyMap::default();
        let alike = |id| key(id).with_hash(5);
        for id in 0..10 {
            assert_eq!(map.insert(&alike(id), id), None);
        }
        assert_eq!((map.remove(&alike(3)), map.get(&alike(3)), map.len()), (Some(3), None, 9));
        assert!((4..10).all(|id| map.get(&alike(id)) == Some(&id)));
    }
}
