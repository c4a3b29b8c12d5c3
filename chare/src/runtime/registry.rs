//! The chares and entry methods of the program, registered at link time, numbered alike in every process.
//!
//! Numbers follow the sorted names, so all processes of one program agree on them; a digest over names and signatures, compared when processes
//! connect, refuses another program.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use charm4rs_transport::RegBuf;
use charm4rs_transport::port::{Incoming, Offer};
use sha2::{Digest, Sha256};

use super::startup::{InitRegistration, ReadonlyRegistration};
use crate::message::envelope::Header;
use crate::runtime::chare::{Chare, Entry};
use crate::runtime::{self, BodyOps, IndexLook, Runtime, Start};

type Destinations = fn(&'static Runtime, &Header, &Offer) -> Vec<Option<RegBuf>>;

/// The row of an entry method: what the dispatcher needs.
#[derive(Debug)]
pub struct MethodInfo {
    pub(crate) chare: &'static str,
    pub(crate) name: &'static str,
    pub(crate) signature: &'static str,
    id: AtomicU16,
    pub(crate) deliver: fn(&'static Runtime, &'static MethodInfo, &Header, Incoming),
    pub(crate) broadcast: fn(&'static Runtime, &'static MethodInfo, &Header, Incoming),
    /// How it is started.
    pub(crate) start: Start,
    /// Chooses the memory for the payloads of an incoming call, if the method does so.
    pub(crate) offer: Option<Destinations>,
    /// Operations on a moved call.
    pub(crate) body: BodyOps,
    /// Reads the index of an element, for reports of what runs.
    pub(crate) index: IndexLook,
}

/// A chare type's row.
#[derive(Debug)]
pub struct ChareInfo {
    pub(crate) name: &'static str,
    id: AtomicU16,
    pub(crate) create: fn(&'static Runtime, &Header, Incoming),
    pub(crate) solo: fn(&'static Runtime, &Header, Incoming),
    /// Drops a new element that will not be created.
    pub(crate) discard: fn(&Header, Incoming),
    pub(crate) methods: &'static [&'static MethodInfo],
}

/// The item that `#[chare]` submits at link time.
#[derive(Debug)]
pub struct Registration(pub &'static ChareInfo);

inventory::collect!(Registration);

const UNNUMBERED: u16 = u16::MAX;

impl MethodInfo {
    /// The row of entry method `E`.
    #[must_use]
    pub const fn of<E: Entry>() -> Self {
        Self {
            chare: E::Chare::NAME,
            name: E::NAME,
            signature: E::SIGNATURE,
            id: AtomicU16::new(UNNUMBERED),
            deliver: runtime::deliver::<E::Chare>,
            broadcast: runtime::broadcast::<E::Chare>,
            start: Start::of::<E>(),
            offer: if E::POSTS { Some(runtime::offer::<E>) } else { None },
            body: BodyOps::of::<E>(),
            index: IndexLook::of::<E::Chare>(),
        }
    }

    #[inline]
    pub(crate) fn id(&self) -> u16 {
        self.id.load(Ordering::Relaxed)
    }
}

impl ChareInfo {
    /// The row of chare type `T`.
    #[must_use]
    pub const fn of<T: Chare>(methods: &'static [&'static MethodInfo]) -> Self {
        Self {
            name: T::NAME,
            id: AtomicU16::new(UNNUMBERED),
            create: runtime::create::<T>,
            solo: runtime::create_solo::<T>,
            discard: runtime::discard_new::<T>,
            methods,
        }
    }

    #[inline]
    pub(crate) fn id(&self) -> u16 {
        self.id.load(Ordering::Relaxed)
    }
}

/// The row of an implementation of a trait by a chare.
pub struct Implementation {
    pub(crate) chare: &'static str,
    pub(crate) name: &'static str,
    pub(crate) methods: &'static [MethodInfo],
    pub(crate) of: TypeId,
    pub(crate) table: &'static (dyn Any + Sync),
    id: AtomicU16,
}

impl Implementation {
    pub(crate) const fn new(
        chare: &'static str,
        name: &'static str,
        methods: &'static [MethodInfo],
        of: TypeId,
        table: &'static (dyn Any + Sync),
    ) -> Self {
        Self { chare, name, methods, of, table, id: AtomicU16::new(UNNUMBERED) }
    }

    pub(crate) fn number(&self, id: u16) {
        self.id.store(id, Ordering::Relaxed);
    }

    pub(crate) fn id(&self) -> u16 {
        self.id.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.name, self.chare)
    }
}

/// The entry that `#[chare] impl Trait for Chare` submits at link time.
#[derive(Debug)]
pub struct ImplementationRegistration(pub &'static Implementation);

inventory::collect!(ImplementationRegistration);

/// The numbered tables.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) chares: Vec<&'static ChareInfo>,
    pub(crate) methods: Vec<&'static MethodInfo>,
    /// Of traits by chares.
    pub(crate) implementations: Vec<&'static Implementation>,
    /// Values that `main` sets.
    pub(crate) readonlies: Vec<&'static ReadonlyRegistration>,
    /// Functions that run before there are chares.
    pub(crate) inits: Vec<&'static InitRegistration>,
    /// Over all names and signatures.
    pub(crate) digest: [u8; 32],
}

/// The program's tables, numbered on first use.
///
/// # Panics
/// If two chare types of the program have one name and path.
pub(crate) fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut chares = BTreeMap::new();
        for Registration(info) in inventory::iter::<Registration> {
            let twin = chares.insert(info.name, *info);
            assert!(twin.is_none(), "two chare types are named {}", info.name);
        }
        let chares: Vec<_> = chares.into_values().collect();
        let mut hash = Sha256::new();
        let mut methods = Vec::new();
        for (id, chare) in chares.iter().enumerate() {
            chare.id.store(number(id), Ordering::Relaxed);
            hash.update(chare.name);
            hash.update([0]);
            let mut own = chare.methods.to_vec();
            own.sort_by_key(|method| method.name);
            own.into_iter().for_each(|method| add(&mut hash, &mut methods, method));
        }
        let mut implementations: Vec<_> =
            inventory::iter::<ImplementationRegistration>.into_iter().map(|row| row.0).collect();
        implementations.sort_by_key(|implementation| (implementation.chare, implementation.name));
        for (id, implementation) in implementations.iter().enumerate() {
            implementation.number(number(id));
            for part in [implementation.chare, implementation.name] {
                hash.update(part);
                hash.update([2]);
            }
            implementation.methods.iter().for_each(|method| add(&mut hash, &mut methods, method));
        }
        let mut readonlies: Vec<_> = inventory::iter::<ReadonlyRegistration>.into_iter().collect();
        readonlies.sort_by_key(|row| row.name);
        for (id, row) in readonlies.iter().enumerate() {
            row.value.number(number(id), row.name);
            hash.update(row.name);
            hash.update([3]);
        }
        let mut inits: Vec<_> = inventory::iter::<InitRegistration>.into_iter().collect();
        inits.sort_by_key(|row| row.name);
        Registry { chares, methods, implementations, readonlies, inits, digest: hash.finalize().into() }
    })
}

fn add(hash: &mut Sha256, methods: &mut Vec<&'static MethodInfo>, method: &'static MethodInfo) {
    method.id.store(number(methods.len()), Ordering::Relaxed);
    for part in [method.name, method.signature] {
        hash.update(part);
        hash.update([1]);
    }
    methods.push(method);
}

fn number(at: usize) -> u16 {
    u16::try_from(at).ok().filter(|&id| id != UNNUMBERED).expect("a program has fewer than 65,535 entry methods")
}
