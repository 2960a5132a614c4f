//! JSON, and the values that do not come back from it.
//!
//! JSON has one word, `null`, for [`None`], for what holds nothing, and for a float that is not finite. The codec watches
//! a value while it is written: one pass, which costs next to nothing. If it meets a part that may not come back, and only
//! then, it reads the bytes again and compares.

use std::cell::Cell;

use serde::de::DeserializeOwned;
use serde::ser::{self, Serialize, Serializer};

use super::{Codec, CodecError};
use crate::protocol::Payload;

/// JSON, by serde.
///
/// # Values that do not come back
///
/// A later caller must get the value that the first one got. So [`encode`](Codec::encode) refuses a value of which it sees
/// that it would come back as another, or not at all: one with
///
/// - a float that is not finite, which JSON writes as `null`;
/// - `Some(None)`, `Some(())`, or `Some` of anything else that JSON writes as `null`: it would come back as `None`;
/// - more than 127 levels of lists, maps and enums within each other, which serde_json does not read;
/// - a 128-bit number, or a map whose keys are no strings, inside of an untagged or internally tagged enum or a flattened
///   field; a flattened map with the name of another field.
///
/// A type that reads these by a way of its own is not refused: with `deserialize_with`, say, that takes `null` for NaN.
///
/// A value that is refused is recorded as done and not available, and the first caller is told. `Json.encode(&value)` says why.
///
/// Nothing is seen of a type that does not read what it writes. Such are fields that are skipped (`#[serde(skip)]`, or
/// `skip_serializing_if` without a default), and untagged variants that look alike. Test that
/// `Json.decode(&Json.encode(&value)?)` gives the value.
///
/// Floats come back to the last bit: the feature `json` asks for serde_json's `float_roundtrip`.
///
/// ```
/// use oncekey::codec::{Codec, Json};
///
/// assert!(Json.encode(&Some(0.5)).is_ok());
/// assert!(Json.encode(&Some(f64::NAN)).is_err(), "it would come back as None");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Payload, CodecError> {
        let (bytes, seen) = write(value)?;
        if seen.has_doubts() {
            let back: T = serde_json::from_slice(&bytes).map_err(Refused::Unread)?;
            let (again, seen_again) = write(&back)?;
            // Maps may come in another order, so the bytes are not compared.
            if again.len() != bytes.len() || seen_again.nulls != seen.nulls {
                return Err(Refused::Another.into());
            }
        }
        Ok(bytes.into())
    }

    fn decode(&self, bytes: &Payload) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// Why a value is not written.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the JSON of this value cannot be read back; `codec::Json` lists the values that it refuses")]
    Unread(#[source] serde_json::Error),
    #[error(
        "the JSON of this value reads back as another value: it has a float that is not finite, or `Some` of what JSON writes as \
         null; use a type that JSON can express"
    )]
    Another,
}

/// The JSON of a value, and what was seen on the way.
fn write<T: Serialize>(value: &T) -> Result<(Vec<u8>, Seen), serde_json::Error> {
    let mut bytes = Vec::with_capacity(128);
    let seen = Seen::default();
    let place = Place { seen: &seen, depth: 0, within: Within::Other };
    value.serialize(Watched { inner: &mut serde_json::Serializer::new(&mut bytes), place })?;
    Ok((bytes, seen))
}

/// Parts of a value that may not come back.
#[derive(Default)]
struct Seen {
    /// Parts that JSON writes as `null`, and that are not `None`: by kind, how many.
    nulls: Cell<[u32; 4]>,
    /// Something else.
    others: Cell<bool>,
}

/// A value that is written as `null`.
#[derive(Clone, Copy)]
enum Null {
    /// Nothing, within `Some`.
    Some,
    Nan,
    Infinity,
    NegInfinity,
}

impl Seen {
    fn has_doubts(&self) -> bool {
        self.others.get() || self.nulls.get() != [0; 4]
    }

    #[cold]
    fn null(&self, null: Null) {
        let mut nulls = self.nulls.get();
        let count = &mut nulls[null as usize];
        *count = count.wrapping_add(1);
        self.nulls.set(nulls);
    }

    #[cold]
    fn other(&self) {
        self.others.set(true);
    }
}

/// Where in a value a part of it stands.
#[derive(Clone, Copy)]
struct Place<'s> {
    seen: &'s Seen,
    /// How many brackets are open.
    depth: u8,
    within: Within,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Directly in `Some`.
    Some,
    /// The key of a map.
    Key,
    Other,
}

/// The deepest that serde_json reads.
const DEPTH_MAX: u8 = 127;

impl<'s> Place<'s> {
    /// The inside of so many brackets.
    fn inside(self, brackets: u8) -> Self {
        let depth = self.depth.saturating_add(brackets);
        if depth > DEPTH_MAX {
            self.seen.other();
        }
        Self { depth, within: Within::Other, ..self }
    }

    /// A value that stands for itself here.
    fn of<T: ?Sized>(self, value: &T) -> Part<'_, 's, T> {
        Part { value, place: self }
    }

    /// `null` is written here.
    fn nothing(self) {
        if self.within == Within::Some {
            self.seen.null(Null::Some);
        }
    }

    /// What is no string is written here.
    fn no_text(self) {
        if self.within == Within::Key {
            self.seen.other();
        }
    }

    fn float(self, value: f64) {
        self.no_text();
        if !value.is_finite() {
            self.seen.null(match value {
                f64::INFINITY => Null::Infinity,
                f64::NEG_INFINITY => Null::NegInfinity,
                _ => Null::Nan,
            });
        }
    }
}

/// A part of a value, to be watched while it is written.
struct Part<'v, 's, T: ?Sized> {
    value: &'v T,
    place: Place<'s>,
}

impl<T: Serialize + ?Sized> Serialize for Part<'_, '_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Watched { inner: serializer, place: self.place })
    }
}

/// A serializer that sees what goes through it.
struct Watched<'s, S> {
    inner: S,
    place: Place<'s>,
}

impl<'s, S> Watched<'s, S> {
    /// What is inside of so many brackets.
    fn parts<C>(
        self,
        brackets: u8,
        open: impl FnOnce(S) -> Result<C, S::Error>,
    ) -> Result<Parts<'s, C>, S::Error>
    where
        S: Serializer,
    {
        let place = self.place.inside(brackets);
        Ok(Parts { inner: open(self.inner)?, place })
    }
}

macro_rules! texts {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.place.no_text();
            self.inner.$method(value)
        }
    )*};
}

impl<'s, S: Serializer> Serializer for Watched<'s, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'s, S::SerializeSeq>;
    type SerializeTuple = Parts<'s, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'s, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'s, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'s, S::SerializeMap>;
    type SerializeStruct = Parts<'s, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'s, S::SerializeStructVariant>;

    texts!(serialize_char: char, serialize_str: &str, serialize_bytes: &[u8]);
    numbers!(
        serialize_bool: bool,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );

    // Where serde has to keep a value until it knows its type, it has no room for these.
    fn serialize_i128(self, value: i128) -> Result<S::Ok, S::Error> {
        self.place.seen.other();
        self.inner.serialize_i128(value)
    }

    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        self.place.seen.other();
        self.inner.serialize_u128(value)
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.place.float(value.into());
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.place.float(value);
        self.inner.serialize_f64(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.place.nothing();
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        // A key is a string, and never null.
        let within = if self.place.within == Within::Key { Within::Key } else { Within::Some };
        self.inner.serialize_some(&Place { within, ..self.place }.of(value))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.place.nothing();
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.place.nothing();
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &self.place.of(value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_variant(name, index, variant, &self.place.inside(1).of(value))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.parts(1, |inner| inner.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.parts(1, |inner| inner.serialize_tuple(len))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.parts(1, |inner| inner.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.parts(2, |inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        if len.is_none() {
            // A struct with a flattened field: two of its parts may have one name.
            self.place.seen.other();
        }
        self.parts(1, |inner| inner.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.parts(1, |inner| inner.serialize_struct(name, len))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.parts(2, |inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    // A list and a map are written by their parts, so that each is seen.
    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A list, a map or a struct that is being written.
struct Parts<'s, C> {
    inner: C,
    place: Place<'s>,
}

macro_rules! lists {
    ($($trait:ident::$add:ident),*) => {$(
        impl<C: ser::$trait> ser::$trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                self.inner.$add(&self.place.of(value))
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

lists!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! structs {
    ($($trait:ident),*) => {$(
        impl<C: ser::$trait> ser::$trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                self.inner.serialize_field(name, &self.place.of(value))
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
                self.inner.skip_field(name)
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

structs!(SerializeStruct, SerializeStructVariant);

impl<C: ser::SerializeMap> ser::SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(&Place { within: Within::Key, ..self.place }.of(key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.inner.serialize_value(&self.place.of(value))
    }

    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), C::Error> {
        let key_place = Place { within: Within::Key, ..self.place };
        self.inner.serialize_entry(&key_place.of(key), &self.place.of(value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
