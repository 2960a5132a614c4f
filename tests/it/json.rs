//! JSON: a value comes back as it went, or its first caller is told.
#![allow(clippy::cast_possible_truncation, reason = "any f32 will do")]

use std::cell::Cell;
use std::collections::BTreeMap;

use oncekey::codec::{Codec, Json};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whether the codec takes a value. If it does, the value comes back: the same by its `Debug`, which tells NaN from NaN
/// and zeros apart.
fn is_kept<T: Serialize + DeserializeOwned + std::fmt::Debug>(value: &T) -> bool {
    let Ok(bytes) = Json.encode(value) else { return false };
    let back: T = Json.decode(&bytes).unwrap_or_else(|error| panic!("{value:?} does not come back: {error}"));
    assert_eq!(format!("{back:?}"), format!("{value:?}"));
    true
}

/// Whether a value comes back from plain serde_json.
fn comes_back<T: Serialize + DeserializeOwned + std::fmt::Debug>(value: &T) -> bool {
    let Ok(bytes) = serde_json::to_vec(value) else { return false };
    serde_json::from_slice::<T>(&bytes).is_ok_and(|back| format!("{back:?}") == format!("{value:?}"))
}

fn map<K: Ord, V>(key: K, value: V) -> BTreeMap<K, V> {
    BTreeMap::from([(key, value)])
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct New(Option<u8>);

/// Distinguishes what is not there from what is null, by the usual recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Patch {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    limit: Option<Option<u8>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u8>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Reads null as NaN.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    #[serde(deserialize_with = "nan")]
    value: f64,
}

fn nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|value| value.unwrap_or(f64::NAN))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Of { counts: BTreeMap<u32, u8>, wide: Option<u128>, ratio: f64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i128),
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[test]
fn what_json_writes_as_null_is_refused_unless_it_comes_back() {
    for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(!is_kept(&float));
        assert!(!is_kept(&(float as f32)));
        assert!(!is_kept(&Some(float)), "it would come back as None");
        assert!(!is_kept(&vec![Some(1.5), Some(float)]));
        assert!(!is_kept(&map("rate".to_owned(), float)));
        assert!(!is_kept(&(1, Some((float as f32, "deep".to_owned())))));
        assert!(!is_kept(&Ok::<_, String>(vec![(Some(float), Unit)])));
        assert_eq!(is_kept(&Measured { value: float }), float.is_nan(), "{float}: NaN is what it reads");
        assert!(!is_kept(&Tagged::Of { counts: BTreeMap::new(), wide: None, ratio: float }));
    }
    // A key that is none.
    assert!(Json.encode(&FloatKey(f64::NAN)).is_err());
    // None is written as null, and these would be.
    assert!(!is_kept(&Some(())));
    assert!(!is_kept(&Some(Unit)));
    assert!(!is_kept(&Some(None::<u8>)));
    assert!(!is_kept(&Some(Some(None::<u8>))));
    assert!(!is_kept(&Some(New(None))));
    assert!(!is_kept(&Some(Either::Nothing)));
    assert!(!is_kept(&Some(serde_json::Value::Null)));
    assert!(!is_kept(&vec![None, Some(None::<u8>)]));
    assert!(!is_kept(&map(1, Some(None::<String>))));
    // A type that knows them apart is not refused.
    assert!(is_kept(&Patch { limit: Some(None) }));
    assert!(is_kept(&vec![Patch { limit: Some(None) }, Patch::default(), Patch { limit: Some(Some(1)) }]));
}

/// A map with a float for a key: such a type has no `Ord`.
#[derive(Debug)]
struct FloatKey(f64);

impl Serialize for FloatKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, 1)])
    }
}

impl<'de> Deserialize<'de> for FloatKey {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("what is refused at once is not read")
    }
}

#[test]
fn what_comes_back_is_not_refused() {
    assert!(is_kept(&()) && is_kept(&Unit) && is_kept(&None::<()>) && is_kept(&New(None)));
    assert!(is_kept(&Some(New(Some(1)))) && is_kept(&Some(Some(0))) && is_kept(&None::<Option<u8>>));
    assert!(is_kept(&serde_json::Value::Null) && is_kept(&vec![(), ()]) && is_kept(&Ok::<(), ()>(())));
    assert!(
        is_kept(&Some(Vec::<()>::new())) && is_kept(&Some(vec![None::<u8>])) && is_kept(&Some((None::<u8>,)))
    );
    assert!(is_kept(&u128::MAX) && is_kept(&i128::MIN) && is_kept(&u64::MAX) && is_kept(&i64::MIN));
    assert!(is_kept(&map(1_u128, 'x')) && is_kept(&map(-5, "minus".to_owned())) && is_kept(&map(true, 1)));
    assert!(
        is_kept(&map('x', 1)) && is_kept(&map(String::new(), 1)) && is_kept(&map(Some("x".to_owned()), 1))
    );
    assert!(is_kept(&vec![0xff_u8, 0]) && is_kept(&"\0\u{2028}\u{10ffff}\"\\".to_owned()));
    assert!(is_kept(&std::time::Duration::MAX) && is_kept(&std::path::PathBuf::from("/tmp/x")));
    assert!(is_kept(&std::net::IpAddr::from([127, 0, 0, 1])));
}

/// Where serde buffers a value until it knows its type, numbers of 128 bits and keys that are no strings do not come back.
#[test]
fn what_an_untagged_or_flattened_type_cannot_read_is_refused() {
    let tagged = |counts: &[u32], wide| {
        let counts = counts.iter().map(|key| (*key, 1)).collect();
        Tagged::Of { counts, wide, ratio: 0.5 }
    };
    assert!(is_kept(&tagged(&[], None)));
    for value in [tagged(&[7], None), tagged(&[], Some(7)), tagged(&[], Some(u128::MAX))] {
        assert_eq!(is_kept(&value), comes_back(&value), "{value:?}");
    }
    assert!(!is_kept(&tagged(&[7], None)));
    let flat =
        |names: &[&str]| Flat { id: 1, rest: names.iter().map(|name| ((*name).to_owned(), 2)).collect() };
    assert!(is_kept(&flat(&[])) && is_kept(&flat(&["a", "b"])));
    assert!(!is_kept(&flat(&["a", "id"])), "two members of one name");
    for value in [Either::Nothing, Either::Number(5), Either::Number(i128::MAX)] {
        assert_eq!(is_kept(&value), comes_back(&value), "{value:?}");
    }
}

/// Boxes in boxes, as lists, as variants or as structs in variants.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Nested {
    End,
    New(Box<Nested>),
    Struct { inner: Box<Nested> },
}

#[test]
fn what_is_nested_deeper_than_json_is_read_is_refused() {
    let lists = |depth: usize| (1..depth).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]));
    let news = |depth: usize| (0..depth).fold(Nested::End, |inner, _| Nested::New(Box::new(inner)));
    let structs =
        |depth: usize| (0..depth).fold(Nested::End, |inner, _| Nested::Struct { inner: Box::new(inner) });
    assert!(is_kept(&lists(127)) && !is_kept(&lists(128)));
    assert!(is_kept(&news(127)) && !is_kept(&news(128)));
    assert!(is_kept(&structs(63)) && !is_kept(&structs(64)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_finite_float_comes_back_to_the_bit(bits: u64) {
        let (wide, narrow) = (f64::from_bits(bits), f32::from_bits(bits as u32));
        prop_assert_eq!(is_kept(&wide), wide.is_finite());
        prop_assert_eq!(is_kept(&narrow), narrow.is_finite());
        prop_assert_eq!(is_kept(&vec![Some(map(1, narrow))]), narrow.is_finite());
    }

    /// Refused is what does not come back from serde_json, and nothing else.
    #[test]
    fn a_value_is_refused_if_and_only_if_it_does_not_come_back(value in sample()) {
        prop_assert_eq!(is_kept(&value), comes_back(&value), "{:?}", value);
    }
}

/// Some of everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Sample {
    Unit,
    Float(f64),
    Narrow(Option<f32>),
    Nothing(Option<()>),
    Twice(Option<Option<u8>>),
    New(Option<New>),
    Wide(u128),
    Patch(Patch),
    Measured(Measured),
    Tagged(Tagged),
    Either(Option<Either>),
    Flat(Flat),
    Pair(f64, Option<Option<f32>>),
    Struct { first: Option<Option<f64>>, second: Patch, third: Measured },
    Maybe(Option<Box<Sample>>),
    List(Vec<Sample>),
    Numbered(BTreeMap<u32, Sample>),
    Named(BTreeMap<String, Sample>),
}

fn sample() -> impl Strategy<Value = Sample> {
    let float = || {
        prop_oneof![
            6 => any::<f64>(),
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE]),
        ]
    };
    let nested = || prop::option::of(prop::option::of(any::<u8>()));
    let patch = move || nested().prop_map(|limit| Patch { limit });
    let measured = move || float().prop_map(|value| Measured { value });
    let tagged =
        (prop::collection::btree_map(0_u32..3, any::<u8>(), 0..2), prop::option::of(any::<u128>()), float())
            .prop_map(|(counts, wide, ratio)| Tagged::Of { counts, wide, ratio });
    let either = prop_oneof![
        Just(Either::Nothing),
        any::<i128>().prop_map(Either::Number),
        (0..9_i128).prop_map(Either::Number)
    ];
    let flat = (any::<u8>(), prop::collection::btree_map("a|b|id", any::<u8>(), 0..3))
        .prop_map(|(id, rest)| Flat { id, rest });
    let narrow = || float().prop_map(|wide| wide as f32);
    let leaf = prop_oneof![
        Just(Sample::Unit),
        float().prop_map(Sample::Float),
        prop::option::of(narrow()).prop_map(Sample::Narrow),
        prop::option::of(Just(())).prop_map(Sample::Nothing),
        nested().prop_map(Sample::Twice),
        prop::option::of(prop::option::of(any::<u8>()).prop_map(New)).prop_map(Sample::New),
        any::<u128>().prop_map(Sample::Wide),
        patch().prop_map(Sample::Patch),
        measured().prop_map(Sample::Measured),
        tagged.prop_map(Sample::Tagged),
        prop::option::of(either).prop_map(Sample::Either),
        flat.prop_map(Sample::Flat),
        (float(), prop::option::of(prop::option::of(narrow()))).prop_map(|(one, two)| Sample::Pair(one, two)),
        (prop::option::of(prop::option::of(float())), patch(), measured())
            .prop_map(|(first, second, third)| Sample::Struct { first, second, third }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::option::of(inner.clone().prop_map(Box::new)).prop_map(Sample::Maybe),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Sample::List),
            prop::collection::btree_map(any::<u32>(), inner.clone(), 0..4).prop_map(Sample::Numbered),
            prop::collection::btree_map("[a-c]{0,2}", inner, 0..4).prop_map(Sample::Named),
        ]
    })
}

thread_local! {
    static WRITTEN: Cell<u32> = const { Cell::new(0) };
    static READ: Cell<u32> = const { Cell::new(0) };
}

/// Counts how often it is written and read.
#[derive(Debug)]
struct Counted(f64);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WRITTEN.set(WRITTEN.get() + 1);
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        READ.set(READ.get() + 1);
        f64::deserialize(deserializer).map(Self)
    }
}

#[test]
fn a_value_without_a_doubt_is_written_once_and_not_read() {
    let value = (Some(vec![Counted(1.5)]), map("a".to_owned(), None::<u8>), [(), ()]);
    Json.encode(&value).unwrap();
    assert_eq!((WRITTEN.get(), READ.get()), (1, 0));
    // One in doubt is read once, and written again.
    Json.encode(&(Counted(1.5), 7_u128)).unwrap();
    assert_eq!((WRITTEN.get(), READ.get()), (3, 1));
}
