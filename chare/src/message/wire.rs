//! All serialization: arguments and results to bytes and back (postcard), payloads beside them.
//!
//! While a value is packed, each large [`Payload`](crate::Payload) in it adds its memory to a list beside the bytes; the transport carries that list
//! out of band, and unpacking takes from it. serde has no way to pass the lists down, so they are in a thread-local [`Context`]. Most values have no payload:
//! then packing touches only numbers, not the list.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::Arc;

use charm4rs_transport::RegBuf;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Payloads below this many bytes travel inside the message.
const ASIDE_MIN: usize = 1024;

/// Payloads of a value that is being unpacked. `None`: taken.
type Untaken = Vec<Option<Arc<RegBuf>>>;

/// What serde does not pass down to the values that are packed and unpacked. It holds no memory except during `pack` and `unpack`, so it needs no
/// destructor, whose registration every access would check.
struct Context {
    /// Whether the value is read once: by the one receiver of a call, or of an answer.
    once: Cell<bool>,
    /// Why one of our own values refused to be packed, since postcard does not keep error texts.
    refusal: Cell<Option<&'static str>>,
    /// The number of payloads that were set aside before the value being packed; `None`: nothing is being packed.
    start: Cell<Option<usize>>,
    /// The number of payloads that are set aside: the length of the list.
    set_aside: Cell<usize>,
    /// The payloads of the value being packed, after those of the values that contain it.
    aside: ManuallyDrop<RefCell<Aside>>,
    /// The payloads of the value being unpacked, until they are taken.
    beside: ManuallyDrop<RefCell<Option<Untaken>>>,
}

thread_local! {
    static CONTEXT: Context = const {
        Context {
            once: Cell::new(false),
            refusal: Cell::new(None),
            start: Cell::new(None),
            set_aside: Cell::new(0),
            aside: ManuallyDrop::new(RefCell::new(Vec::new())),
            beside: ManuallyDrop::new(RefCell::new(None)),
        }
    };
}

const _: () = assert!(!std::mem::needs_drop::<Context>());

/// Bytes that do not match their type, or a value that cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, serde::Deserialize)]
#[error("{0}")]
pub struct WireError(String);

impl WireError {
    /// Values that do not match one another.
    pub(crate) fn disorder() -> Self {
        Self("values that do not match".to_owned())
    }
}

impl From<postcard::Error> for WireError {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        Self(CONTEXT.with(|context| context.refusal.take()).map_or_else(|| error.to_string(), str::to_owned))
    }
}

/// While it exists, values are packed or unpacked to be read once: by the one receiver of a call, or of an answer.
#[must_use]
pub(crate) struct Once(bool);

impl Once {
    #[inline]
    pub(crate) fn begin() -> Self {
        Self(CONTEXT.with(|context| context.once.replace(true)))
    }
}

impl Drop for Once {
    #[inline]
    fn drop(&mut self) {
        CONTEXT.with(|context| context.once.set(self.0));
    }
}

/// Whether there is a [`Once`]; if not, returns `why` as the reason of a refusal.
pub(crate) fn is_once(why: &'static str) -> Result<(), &'static str> {
    CONTEXT.with(|context| {
        if context.once.get() {
            return Ok(());
        }
        context.refusal.set(Some(why));
        Err(why)
    })
}

/// Payloads that travel beside serialized bytes.
pub(crate) type Aside = Vec<Arc<RegBuf>>;

/// Appends `value` to `bytes`; returns the payloads that travel beside them.
pub(crate) fn pack<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<Aside, WireError> {
    pack_by(&mut |out| value.serialize(out), bytes)
}

/// [`pack`], independent of the value's type.
fn pack_by(
    write: &mut dyn FnMut(&mut postcard::Serializer<Appending<'_>>) -> postcard::Result<()>,
    bytes: &mut Vec<u8>,
) -> Result<Aside, WireError> {
    let packing = Packing::begin();
    write(&mut postcard::Serializer { output: Appending(bytes) })?;
    Ok(packing.aside())
}

/// A value that is being packed. Its destructor runs also when user code panics.
struct Packing {
    outer: Option<usize>,
    start: usize,
}

impl Packing {
    #[inline]
    fn begin() -> Self {
        CONTEXT.with(|context| {
            let start = context.set_aside.get();
            Self { outer: context.start.replace(Some(start)), start }
        })
    }

    /// The payloads that were set aside for this value: mostly none.
    #[inline(always)]
    fn aside(&self) -> Aside {
        if CONTEXT.with(|context| context.set_aside.get()) == self.start {
            return Vec::new();
        }
        self.take_aside()
    }

    #[cold]
    #[inline(never)]
    fn take_aside(&self) -> Aside {
        CONTEXT.with(|context| {
            context.set_aside.set(self.start);
            let mut list = context.aside.borrow_mut();
            if self.start == 0 { std::mem::take(&mut *list) } else { list.split_off(self.start) }
        })
    }
}

impl Drop for Packing {
    #[inline(always)]
    fn drop(&mut self) {
        let _unused = self.aside();
        CONTEXT.with(|context| context.start.set(self.outer));
    }
}

/// Packs a value with its payloads, including large ones, among the bytes.
pub(crate) fn pack_inside<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    let outer = CONTEXT.with(|context| context.start.take());
    let mut bytes = Vec::new();
    let packed = value.serialize(&mut postcard::Serializer { output: Appending(&mut bytes) });
    CONTEXT.with(|context| context.start.set(outer));
    packed?;
    Ok(bytes)
}

/// A sink for packed bytes: it appends them.
struct Appending<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appending<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads a value back. All bytes must be used.
pub(crate) fn unpack<T: DeserializeOwned>(bytes: &[u8], payloads: Aside) -> Result<T, WireError> {
    let (value, rest) = unpack_first(bytes, payloads)?;
    if rest.is_empty() { Ok(value) } else { Err(too_many(rest)) }
}

/// Reads a value from the front; returns the rest.
#[inline]
pub(crate) fn unpack_first<T: DeserializeOwned>(bytes: &[u8], payloads: Aside) -> Result<(T, &[u8]), WireError> {
    let mut value = None;
    let rest = unpack_by(bytes, payloads, &mut |from| {
        value = Some(T::deserialize(from)?);
        Ok(())
    })?;
    value.map(|value| (value, rest)).ok_or_else(|| too_many(rest))
}

type Reader<'de> = postcard::Deserializer<'de, postcard::de_flavors::Slice<'de>>;

/// [`unpack_first`], independent of the value's type: `read` reads it.
fn unpack_by<'de>(
    bytes: &'de [u8],
    payloads: Aside,
    read: &mut dyn FnMut(&mut Reader<'de>) -> postcard::Result<()>,
) -> Result<&'de [u8], WireError> {
    let read = if payloads.capacity() == 0 {
        let _none = ManuallyDrop::new(payloads); // it has no memory, and its destructor would be a call
        read_from(bytes, read)
    } else {
        unpack_beside(bytes, payloads, read)
    };
    read.map_err(WireError::from)
}

// A separate function, so that a value without payloads, as most are, saves no registers for it.
#[inline(never)]
fn unpack_beside<'de>(
    bytes: &'de [u8],
    payloads: Aside,
    read: &mut dyn FnMut(&mut Reader<'de>) -> postcard::Result<()>,
) -> postcard::Result<&'de [u8]> {
    let _beside = Beside::begin(payloads);
    read_from(bytes, read)
}

#[inline]
fn read_from<'de>(
    bytes: &'de [u8],
    read: &mut dyn FnMut(&mut Reader<'de>) -> postcard::Result<()>,
) -> postcard::Result<&'de [u8]> {
    let mut from = postcard::Deserializer::from_bytes(bytes);
    read(&mut from)?;
    from.finalize()
}

/// While it exists, values that are unpacked find their payloads.
struct Beside {
    outer: Option<Untaken>,
}

impl Beside {
    #[inline(never)]
    fn begin(payloads: Aside) -> Self {
        let payloads = payloads.into_iter().map(Some).collect();
        Self { outer: CONTEXT.with(|context| context.beside.replace(Some(payloads))) }
    }
}

impl Drop for Beside {
    #[inline(never)]
    fn drop(&mut self) {
        CONTEXT.with(|context| context.beside.replace(self.outer.take()));
    }
}

#[cold]
fn too_many(rest: &[u8]) -> WireError {
    WireError(format!("{} unexpected bytes", rest.len()))
}

/// A value that was packed here and is read elsewhere, inside a message that only forwards it. Its payloads travel beside that message.
#[derive(Clone, Default, Debug)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    aside: Vec<Arc<RegBuf>>,
}

impl Packed {
    pub(crate) fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, WireError> {
        let mut bytes = Vec::with_capacity(64); // most need no more
        let aside = pack(value, &mut bytes)?;
        Ok(Self { bytes, aside })
    }

    /// From the serialized bytes and payloads of a message.
    pub(crate) fn taken(bytes: Vec<u8>, aside: Vec<Arc<RegBuf>>) -> Self {
        Self { bytes, aside }
    }

    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, WireError> {
        unpack(&self.bytes, self.aside)
    }

    /// Reads a value without payloads from the front; the rest stays.
    pub(crate) fn split_first<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        let (value, rest) = unpack_first(&self.bytes, Vec::new())?;
        let rest = rest.len();
        self.bytes.drain(..self.bytes.len() - rest);
        Ok(value)
    }

    /// Its bytes and payloads.
    pub(crate) fn parts(&self) -> (&[u8], Vec<Arc<RegBuf>>) {
        (&self.bytes, self.aside.clone())
    }
}

/// Its bytes in one piece, and its payloads' places in the list of the message.
impl Serialize for Packed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = |buf| set_aside(buf).ok_or_else(|| serde::ser::Error::custom("a payload outside of a message"));
        let places = self.aside.iter().map(place).collect::<Result<Vec<u32>, _>>()?;
        (Bytes(&self.bytes), places).serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Packed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (bytes, places) = <(&[u8], Vec<u32>)>::deserialize(deserializer)?;
        let missing = || serde::de::Error::custom("a payload is missing");
        let aside = places.into_iter().map(|place| take_aside(place).ok_or_else(missing)).collect::<Result<_, _>>()?;
        Ok(Self { bytes: bytes.to_vec(), aside })
    }
}

/// Bytes that are serialized as a whole, not one by one.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Whether a payload of so many bytes that is being packed travels beside the message.
pub(crate) fn goes_aside(bytes: usize) -> bool {
    bytes >= ASIDE_MIN && CONTEXT.with(|context| context.start.get().is_some())
}

/// Called by a payload that is being packed: its place in the list, if it travels beside the message.
pub(crate) fn set_aside(buf: &Arc<RegBuf>) -> Option<u32> {
    if buf.len() < ASIDE_MIN {
        return None;
    }
    CONTEXT.with(|context| {
        let count = context.set_aside.get();
        let place = u32::try_from(count - context.start.get()?).ok()?;
        context.aside.borrow_mut().push(buf.clone());
        context.set_aside.set(count + 1);
        Some(place)
    })
}

/// Called by a payload that is being unpacked.
pub(crate) fn take_aside(place: u32) -> Option<Arc<RegBuf>> {
    CONTEXT.with(|context| context.beside.borrow_mut().as_mut()?.get_mut(place as usize)?.take())
}
