//! Wrappers of libfabric's objects, each closed when dropped, and the calls on them. Knows nothing of messages and peers.
//!
//! A [`Lane`] is all that one PE has of libfabric: a domain, a completion queue, an address table and an endpoint of its
//! own. Nothing of it is shared, so the provider is told that no two threads are ever in one domain, and needs no locks.

mod errno;
mod raw;

use std::ffi::{CStr, CString, c_int, c_void};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null, null_mut};
use std::sync::{Arc, Once};

use charm4rs_libfabric_sys::bindings as fi;
use charm4rs_libfabric_sys::{Library, VERSION};

pub(super) use errno::{Errno, Post};
use errno::{check, post};
pub(super) use raw::Mapped;
#[cfg(any(test, feature = "faults"))]
pub(super) use raw::stub;

use super::keys::KeyChooser;

/// Calls a function in the function table of an object.
macro_rules! call {
    ($table:expr, $name:ident ( $($arg:expr),* )) => {
        match (*$table).$name {
            Some(function) => function($($arg),*),
            None => -libc::ENOSYS as _,
        }
    };
}

/// Sets options of libfabric and its providers that exist only as environment variables, unless the user has set them.
/// - The number of peers of an endpoint. Device queues are sized by it, and some devices cannot provide the default
///   (256 peers).
/// - The libraries of `psm` and `psm2` must not catch signals, nor write files when the process crashes.
pub(super) fn prepare_environment(peers: u32) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_variables(peers));
}

fn set_variables(peers: u32) {
    let peers = (peers < 256).then(|| peers.next_power_of_two().clamp(16, 64).to_string());
    let variables =
        [("FI_UNIVERSE_SIZE", peers.as_deref()), ("IPATH_NO_BACKTRACE", Some("1")), ("HFI_NO_BACKTRACE", Some("1"))];
    for (name, value) in variables {
        if let Some(value) = value.filter(|_| std::env::var_os(name).is_none()) {
            // SAFETY: wire-up happens before the process has PEs; any other thread that reads the environment now uses
            // the standard library, which has a lock.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// What is requested from providers.
#[derive(Clone, Default, Debug)]
pub(super) struct Want<'a> {
    /// Its name; otherwise any provider.
    pub(super) provider: Option<&'a str>,
    /// The local address to use.
    pub(super) source: Option<IpAddr>,
}

/// One way to communicate: a provider, with what it can do.
pub(super) struct Info {
    raw: NonNull<fi::fi_info>,
    library: Arc<Library>,
}

// SAFETY: plain memory with one owner; freed on any thread.
unsafe impl Send for Info {}
// SAFETY: a shared one is only read.
unsafe impl Sync for Info {}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: the library made it, and this is its only owner.
        unsafe { (self.library.freeinfo)(self.raw.as_ptr()) }
    }
}

impl std::fmt::Debug for Info {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Info").field("provider", &self.provider()).field("domain", &self.domain_name()).finish()
    }
}

impl Clone for Info {
    fn clone(&self) -> Self {
        // SAFETY: a valid description.
        let raw = unsafe { (self.library.dupinfo)(self.raw.as_ptr()) };
        Self { raw: NonNull::new(raw).expect("memory for a description"), library: self.library.clone() }
    }
}

macro_rules! attributes {
    ($($name:ident: $kind:ident = $field:ident;)+) => {$(
        pub(super) fn $name(&self) -> &fi::$kind {
            // SAFETY: a description of the library has all of its parts, for as long as it lives.
            unsafe { &*(*self.raw.as_ptr()).$field }
        }
    )+};
}

impl Info {
    attributes! {
        tx: fi_tx_attr = tx_attr;
        ep: fi_ep_attr = ep_attr;
        domain: fi_domain_attr = domain_attr;
        fabric: fi_fabric_attr = fabric_attr;
    }

    pub(super) fn provider(&self) -> String {
        text(self.fabric().prov_name)
    }

    pub(super) fn domain_name(&self) -> String {
        text(self.domain().name)
    }

    pub(super) fn mr_mode(&self, bit: u32) -> bool {
        u32::try_from(self.domain().mr_mode).is_ok_and(|mode| mode & bit != 0)
    }

    /// Whether its address is `ip`, with any port.
    pub(super) fn listens_on(&self, ip: IpAddr) -> bool {
        // SAFETY: a description's address has this many bytes.
        let bytes = unsafe {
            let info = &*self.raw.as_ptr();
            if info.src_addr.is_null() {
                return false;
            }
            std::slice::from_raw_parts(info.src_addr.cast::<u8>(), info.src_addrlen)
        };
        // A `sockaddr_in`, or a `sockaddr_in6`: the address follows the family, the port and, in the latter, the flow.
        match ip {
            IpAddr::V4(ip) => bytes.get(4..8) == Some(&ip.octets()),
            IpAddr::V6(ip) => bytes.get(8..24) == Some(&ip.octets()),
        }
    }

    pub(super) fn library(&self) -> &Arc<Library> {
        &self.library
    }
}

fn text(chars: *const std::ffi::c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // SAFETY: strings of a description end with a zero, and live as long as the description.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}

/// The providers of the library for reliable datagrams with messages and one-sided access, in its order of preference.
pub(super) fn find(library: &Arc<Library>, want: &Want<'_>, depth: usize) -> Result<Vec<Info>, Errno> {
    // SAFETY: null asks for an empty description.
    let hints = unsafe { (library.dupinfo)(null()) };
    let hints = Info { raw: NonNull::new(hints).ok_or(Errno(libc::ENOMEM))?, library: library.clone() };
    // SAFETY: an empty description has all of its parts, and this is its only owner.
    unsafe {
        let info = &mut *hints.raw.as_ptr();
        info.caps = u64::from(fi::FI_MSG | fi::FI_RMA);
        info.mode = fi::FI_CONTEXT | fi::FI_CONTEXT2;
        (*info.ep_attr).type_ = fi::FI_EP_RDM;
        (*info.tx_attr).size = depth;
        (*info.rx_attr).size = depth;
        (*info.tx_attr).msg_order = u64::from(fi::FI_ORDER_SAS);
        (*info.rx_attr).msg_order = u64::from(fi::FI_ORDER_SAS);
        let domain = &mut *info.domain_attr;
        let modes = fi::FI_MR_LOCAL
            | fi::FI_MR_VIRT_ADDR
            | fi::FI_MR_ALLOCATED
            | fi::FI_MR_PROV_KEY
            | fi::FI_MR_ENDPOINT
            | fi::FI_MR_RAW;
        domain.mr_mode = modes.cast_signed();
        domain.threading = fi::FI_THREAD_DOMAIN;
        domain.resource_mgmt = fi::FI_RM_ENABLED;
        if let Some(name) = want.provider {
            let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
            // The library frees it with the description.
            (*info.fabric_attr).prov_name = libc::strdup(name.as_ptr());
        }
    }
    let node = want.source.map(|ip| CString::new(ip.to_string()).expect("an address has no zero"));
    let (node, flags) = node.as_ref().map_or((null(), 0), |node| (node.as_ptr(), fi::FI_SOURCE | fi::FI_NUMERICHOST));
    let mut list = null_mut();
    // SAFETY: valid strings and hints; the list is written if the call succeeds.
    check(unsafe { (library.getinfo)(VERSION, node, null(), flags, hints.raw.as_ptr(), &raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: the list is valid until it is freed.
    while let Some(info) = unsafe { next.as_ref() } {
        // SAFETY: as above; the copy is of one entry.
        if let Some(raw) = NonNull::new(unsafe { (library.dupinfo)(next) }) {
            found.push(Info { raw, library: library.clone() });
        }
        next = info.next;
    }
    // SAFETY: the library made the list, and nothing refers to it any more.
    unsafe { (library.freeinfo)(list) };
    Ok(found)
}

/// An object of libfabric, whose first field is its `fid`. Closed when dropped.
#[derive(Debug)]
struct Fid<T>(NonNull<T>);

impl<T> Fid<T> {
    /// The object that `make` creates.
    ///
    /// # Safety
    /// `make` writes a valid object of type `T`, which begins with a `fid`, or fails.
    unsafe fn new(make: impl FnOnce(*mut *mut T) -> c_int) -> Result<Self, Errno> {
        let mut raw = null_mut();
        check(make(&raw mut raw))?;
        NonNull::new(raw).map(Self).ok_or(Errno(libc::EINVAL))
    }

    fn raw(&self) -> *mut T {
        self.0.as_ptr()
    }

    fn fid(&self) -> *mut fi::fid {
        self.0.as_ptr().cast()
    }

    fn bind<U>(&self, to: &Fid<U>, flags: u64) -> Result<(), Errno> {
        // SAFETY: two open objects.
        check(unsafe { call!((*self.fid()).ops, bind(self.fid(), to.fid(), flags)) })
    }

    fn control(&self, command: u32, arg: *mut c_void) -> Result<(), Errno> {
        // SAFETY: an open object; each caller passes what the command requires.
        check(unsafe { call!((*self.fid()).ops, control(self.fid(), command.cast_signed(), arg)) })
    }
}

impl<T> Drop for Fid<T> {
    fn drop(&mut self) {
        // SAFETY: open, and this is its only owner.
        let code: c_int = unsafe { call!((*self.fid()).ops, close(self.fid())) };
        if code != 0 {
            tracing::warn!(code, "an object of libfabric cannot be closed");
        }
    }
}

/// Registered memory. Closed when dropped: from then on the provider refuses peers, and no longer uses the memory.
#[derive(Debug)]
pub(super) struct Region {
    mr: Fid<fi::fid_mr>,
}

impl Region {
    pub(super) fn key(&self) -> u64 {
        // SAFETY: open.
        unsafe { (*self.mr.raw()).key }
    }

    /// The provider's descriptor for a local buffer.
    pub(super) fn desc(&self) -> *mut c_void {
        // SAFETY: open.
        unsafe { (*self.mr.raw()).mem_desc }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Lane {
    /// `None` once closed.
    ep: Option<Fid<fi::fid_ep>>,
    av: Fid<fi::fid_av>,
    cq: Fid<fi::fid_cq>,
    domain: Fid<fi::fid_domain>,
    fabric: Fid<fi::fid_fabric>,
    wait: Option<RawFd>,
    info: Info,
    /// Present if this backend chooses the keys of registrations, and not the provider.
    keys: Option<KeyChooser>,
    /// Simulates a limit of locked memory.
    #[cfg(any(test, feature = "faults"))]
    pub(super) registered_max: usize,
}

// SAFETY: the objects are used by one thread at a time, for which the domain was opened; they may move.
unsafe impl Send for Lane {}

impl Lane {
    /// Opens all objects, for at most `completions` operations at a time. Keys are derived from `random` bytes that only this lane has.
    pub(super) fn open(info: &Info, completions: usize, random: [u8; 32]) -> Result<Self, (&'static str, Errno)> {
        let (library, raw) = (info.library().clone(), info.raw.as_ptr());
        // SAFETY: (here and below) valid descriptions and objects, which the functions only read; each creates the requested object.
        let fabric = unsafe { Fid::new(|out| (library.fabric)((*raw).fabric_attr, out, null_mut())) };
        let fabric = fabric.map_err(|e| ("fi_fabric", e))?;
        // SAFETY: as above.
        let domain = unsafe {
            Fid::<fi::fid_domain>::new(|out| call!((*fabric.raw()).ops, domain(fabric.raw(), raw, out, null_mut())))
        };
        let domain = domain.map_err(|e| ("fi_domain", e))?;
        let open_cq = |wait_obj| {
            let mut attr =
                fi::fi_cq_attr { size: completions, format: fi::FI_CQ_FORMAT_MSG, wait_obj, ..Default::default() };
            // SAFETY: as above.
            unsafe {
                Fid::<fi::fid_cq>::new(|out| {
                    call!((*domain.raw()).ops, cq_open(domain.raw(), &raw mut attr, out, null_mut()))
                })
            }
        };
        let cq = open_cq(fi::FI_WAIT_FD).or_else(|_| open_cq(fi::FI_WAIT_NONE)).map_err(|e| ("fi_cq_open", e))?;
        let mut attr = fi::fi_av_attr { type_: fi::FI_AV_TABLE, count: 64, ..Default::default() };
        if info.domain().av_type == fi::FI_AV_MAP {
            attr.type_ = fi::FI_AV_MAP;
        }
        // SAFETY: as above.
        let av = unsafe {
            Fid::<fi::fid_av>::new(|out| {
                call!((*domain.raw()).ops, av_open(domain.raw(), &raw mut attr, out, null_mut()))
            })
        };
        let av = av.map_err(|e| ("fi_av_open", e))?;
        // SAFETY: as above.
        let ep = unsafe {
            Fid::<fi::fid_ep>::new(|out| call!((*domain.raw()).ops, endpoint(domain.raw(), raw, out, null_mut())))
        };
        let ep = ep.map_err(|e| ("fi_endpoint", e))?;
        ep.bind(&av, 0).map_err(|e| ("fi_ep_bind", e))?;
        ep.bind(&cq, u64::from(fi::FI_SEND | fi::FI_RECV)).map_err(|e| ("fi_ep_bind", e))?;
        ep.control(fi::FI_ENABLE, null_mut()).map_err(|e| ("fi_enable", e))?;
        let mut fd: c_int = -1;
        let wait = cq.control(fi::FI_GETWAIT, (&raw mut fd).cast()).is_ok() && fd >= 0;
        Ok(Self {
            ep: Some(ep),
            av,
            cq,
            domain,
            fabric,
            wait: wait.then_some(fd),
            keys: (!info.mr_mode(fi::FI_MR_PROV_KEY)).then(|| KeyChooser::new(random, info.domain().mr_key_size)),
            info: info.clone(),
            #[cfg(any(test, feature = "faults"))]
            registered_max: usize::MAX,
        })
    }

    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    /// The text of an error.
    pub(super) fn describe(&self, error: Errno) -> String {
        self.info.library().describe(error.0)
    }

    /// Closes the endpoint: posted operations end, and their buffers are free.
    pub(super) fn close(&mut self) {
        self.ep = None;
    }

    fn ep(&self) -> *mut fi::fid_ep {
        self.ep.as_ref().expect("posts end before the endpoint does").raw()
    }

    /// Its address, which other lanes pass to [`Lane::insert`].
    pub(super) fn address(&self) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0u8; 512];
        let mut len = bytes.len();
        // SAFETY: the buffer has this many bytes.
        check(unsafe { call!((*self.ep()).cm, getname(self.ep().cast(), bytes.as_mut_ptr().cast(), &raw mut len)) })?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Adds an address to the table. The bytes come from the [`Lane::address`] of another lane.
    pub(super) fn insert(&self, address: &[u8]) -> Option<u64> {
        let mut out = u64::MAX;
        // Addresses have a fixed length; a read beyond a short one must stay in our memory.
        let mut bytes = [0u64; 64];
        let bytes = bytemuck::bytes_of_mut(&mut bytes);
        bytes.get_mut(..address.len())?.copy_from_slice(address);
        // SAFETY: one address, in a buffer that is longer than any address.
        let n = unsafe {
            let av = self.av.raw();
            call!((*av).ops, insert(av, bytes.as_ptr().cast(), 1, &raw mut out, 0, null_mut()))
        };
        (n == 1 && out != u64::MAX).then_some(out)
    }

    /// Sends bytes that the provider copies.
    pub(super) fn inject(&self, bytes: &[u8], to: u64) -> Post {
        // SAFETY: valid bytes, needed during the call only.
        post(unsafe { call!((*self.ep()).msg, inject(self.ep(), bytes.as_ptr().cast(), bytes.len(), to)) })
    }

    /// Sends bytes.
    ///
    /// # Safety
    /// They must not change, and `context` must belong to the operation, until it completes or the endpoint is closed.
    pub(super) unsafe fn send(&self, bytes: &[u8], desc: *mut c_void, to: u64, context: *mut c_void) -> Post {
        // SAFETY: the caller's promise.
        post(unsafe { call!((*self.ep()).msg, send(self.ep(), bytes.as_ptr().cast(), bytes.len(), desc, to, context)) })
    }

    /// Receives the next message.
    ///
    /// # Safety
    /// `at` is valid for `len` bytes, and neither they nor `context` are used elsewhere until the operation completes or the endpoint is
    /// closed.
    pub(super) unsafe fn recv(&self, at: *mut u8, len: usize, desc: *mut c_void, context: *mut c_void) -> Post {
        // SAFETY: the caller's promise.
        post(unsafe { call!((*self.ep()).msg, recv(self.ep(), at.cast(), len, desc, u64::MAX, context)) })
    }

    /// Writes to, or reads from, a peer's memory.
    ///
    /// # Safety
    /// As for [`Lane::send`] (`put`), or as for [`Lane::recv`].
    pub(super) unsafe fn rma(&self, access: &Access, put: bool, context: *mut c_void) -> Post {
        let iov = fi::iovec { iov_base: access.at.cast(), iov_len: access.len };
        let mut desc = access.desc;
        let there = fi::fi_rma_iov { addr: access.addr, len: access.len, key: access.key };
        let message = fi::fi_msg_rma {
            msg_iov: &raw const iov,
            desc: &raw mut desc,
            iov_count: 1,
            addr: access.to,
            rma_iov: &raw const there,
            rma_iov_count: 1,
            context,
            data: 0,
        };
        let delivered = if access.delivered { fi::FI_DELIVERY_COMPLETE } else { 0 };
        let (ep, flags) = (self.ep(), u64::from(fi::FI_COMPLETION));
        // SAFETY: the description is read during the call; for the memory, the caller's promise.
        post(unsafe {
            if put {
                call!((*ep).rma, writemsg(ep, &raw const message, flags | u64::from(delivered)))
            } else {
                call!((*ep).rma, readmsg(ep, &raw const message, flags))
            }
        })
    }

    /// Takes completions. Returns none if there are none; for a failed one, its context and error.
    pub(super) fn completions<'a>(&self, room: &'a mut [Completion]) -> Result<&'a [Completion], Failed> {
        let cq = self.cq.raw();
        // SAFETY: the buffer has space for this many entries of the queue's format.
        let n = unsafe { call!((*cq).ops, read(cq, room.as_mut_ptr().cast(), room.len())) };
        if let Ok(n) = usize::try_from(n) {
            return Ok(&room[..n]);
        }
        match c_int::try_from(-n).unwrap_or(libc::EINVAL) {
            libc::EAGAIN => Ok(&room[..0]),
            code if code.cast_unsigned() == fi::FI_EAVAIL => Err(self.error()),
            code => Err(Failed { context: 0, flags: 0, error: Errno(code) }),
        }
    }

    fn error(&self) -> Failed {
        let mut entry = fi::fi_cq_err_entry::default();
        let cq = self.cq.raw();
        // SAFETY: an entry for the error; as it has no buffer for details, the provider keeps those.
        let n: isize = unsafe { call!((*cq).ops, readerr(cq, &raw mut entry, 0)) };
        if n < 0 {
            return Failed { context: 0, flags: 0, error: Errno(c_int::try_from(-n).unwrap_or(libc::EIO)) };
        }
        Failed { context: entry.op_context.addr(), flags: entry.flags, error: Errno(entry.err) }
    }

    /// Whether completions wake a sleeping thread.
    pub(super) fn wakes(&self) -> bool {
        self.wait.is_some()
    }

    /// The descriptor that becomes readable when there are completions.
    pub(super) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor belongs to the queue, which lives as long as the borrow.
        self.wait.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Whether the descriptor may be waited on now.
    pub(super) fn may_wait(&self) -> bool {
        let mut fid = self.cq.fid();
        // SAFETY: one open queue of this fabric.
        let code: c_int = unsafe { call!((*self.fabric.raw()).ops, trywait(self.fabric.raw(), &raw mut fid, 1)) };
        code == 0
    }

    /// Registers memory for the accesses in `access`, under a key that cannot be guessed.
    ///
    /// # Safety
    /// The memory is valid, and stays where it is, for as long as the region exists.
    pub(super) unsafe fn register(&self, at: *mut u8, len: usize, access: u64) -> Result<Region, Errno> {
        #[cfg(any(test, feature = "faults"))]
        if len > self.registered_max {
            return Err(Errno(libc::ENOMEM));
        }
        let domain = self.domain.raw();
        let register = |key| {
            // SAFETY: the caller's promise.
            unsafe {
                Fid::<fi::fid_mr>::new(|out| {
                    call!(
                        (*domain).mr,
                        reg(self.domain.fid(), at.cast_const().cast(), len, access, 0, key, 0, out, null_mut())
                    )
                })
            }
        };
        let mr = match &self.keys {
            None => register(0),
            Some(keys) => keys.try_each(register, |error| error.0 == libc::ENOKEY),
        }?;
        if self.info.mr_mode(fi::FI_MR_ENDPOINT)
            && let Some(ep) = &self.ep
        {
            mr.bind(ep, 0)?;
            mr.control(fi::FI_ENABLE, null_mut())?;
        }
        #[cfg(any(test, feature = "faults"))]
        if self.has_raw_keys() {
            stub::set_region(&mr);
        }
        Ok(Region { mr })
    }
}

/// One access to a peer's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) at: *mut u8,
    pub(super) len: usize,
    pub(super) desc: *mut c_void,
    pub(super) to: u64,
    pub(super) addr: u64,
    pub(super) key: u64,
    /// Complete only once the bytes have arrived at the target.
    pub(super) delivered: bool,
}

/// An operation that completed.
pub(super) type Completion = fi::fi_cq_msg_entry;

/// An operation that failed, by the address of its context (0: none).
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub(super) context: usize,
    pub(super) flags: u64,
    pub(super) error: Errno,
}
