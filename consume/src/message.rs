//! One delivery of a message.

use oncekey::{Fingerprint, Key};

/// One delivery of a message.
#[derive(Clone, Debug)]
#[must_use = "a message does nothing until it is consumed"]
pub struct Message {
    pub(super) key: Key,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) deliveries: u32,
}

impl Message {
    /// A message under this key: see the [crate](crate) on what to take.
    pub fn new(key: Key) -> Self {
        Self { key, fingerprint: None, deliveries: 1 }
    }

    /// Binds the key to this digest of the message: the same key with another one goes to the dead letters.
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// Binds the key to the SHA-256 of the message's payload.
    #[cfg(feature = "sha256")]
    pub fn fingerprint_of(self, payload: impl AsRef<[u8]>) -> Self {
        self.fingerprint(Fingerprint::sha256(payload.as_ref()))
    }

    /// Binds the key to the SHA-256 of the parts of the message that stay the same, as JSON: see
    /// [`Fingerprint::sha256_json`].
    ///
    /// # Errors
    /// [`FingerprintError`](oncekey::protocol::FingerprintError) if JSON cannot express the value.
    #[cfg(all(feature = "json", feature = "sha256"))]
    pub fn fingerprint_json<V>(self, value: &V) -> Result<Self, oncekey::protocol::FingerprintError>
    where
        V: serde::Serialize + ?Sized,
    {
        Ok(self.fingerprint(Fingerprint::sha256_json(value)?))
    }

    /// How often it was delivered, this time included, where the broker counts; 1 by default. It makes retries of a
    /// message whose claim the store could not answer come later and later.
    pub fn deliveries(mut self, deliveries: u32) -> Self {
        self.deliveries = deliveries.max(1);
        self
    }
}
