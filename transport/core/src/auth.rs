//! How two processes prove to each other that they belong to the same job, before anything else is decoded.
//!
//! Pure state machines over bytes: no sockets, no clocks, no allocation. They know nothing of what the connection is for,
//! except that both ends bind it to the same purpose, PEs and generation.
//!
//! # The handshake
//! A job has 32 random bytes, its [`Secret`]. No message is made with the secret itself: HKDF-SHA256
//! derives one key for each role. There are three messages of fixed size, [`TOTAL`] bytes in all (at most 256):
//!
//! ```text
//! dialer   -> acceptor   HELLO      magic form purpose version job rank from to generation nonce digest      96
//! acceptor -> dialer     CHALLENGE  magic form purpose version rank pe nonce digest mac_acceptor            112
//! dialer   -> acceptor   PROOF      mac_dialer                                                               32
//!
//! mac_acceptor = HMAC-SHA256(key_acceptor, "acceptor" | HELLO | CHALLENGE without its mac)
//! mac_dialer   = HMAC-SHA256(key_dialer,   "dialer"   | HELLO | CHALLENGE)
//! ```
//!
//! *No replay*: both nonces are fresh and under both MACs. *No reflection*: the roles have different keys and labels,
//! so neither end can use the proof of the other. *No oracle*: an acceptor answers only a HELLO of its own job,
//! and its answer is valid for that HELLO alone. MACs are compared in constant time.
//!
//! *Strangers decide nothing*: a wrong proof says only that the other end is not known to belong to the job. What that means for the job
//! depends on the address, and on whether a process has proven itself there before (`tcp::dial`).
//!
//! Version and digest are in the messages but count only once the peer has proven itself ([`Terms::check`]). So a
//! stranger cannot make a job believe that its program differs, and the error can name the values of the authenticated peer.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{Pe, TransportError};

/// Bytes of the dialer's first message.
pub const HELLO: usize = 96;
/// Bytes of the acceptor's answer.
pub const CHALLENGE: usize = 112;
/// Bytes of the dialer's proof.
pub const PROOF: usize = 32;
/// Bytes of the whole handshake, both directions.
pub const TOTAL: usize = HELLO + CHALLENGE + PROOF;
const _: () = assert!(TOTAL <= 256);

const MAGIC: [u8; 4] = *b"\x00c4r";
/// The format of these three messages. Messages of another format are not decoded.
const FORM: u8 = 1;
const MAC: usize = 32;

/// The job's secret: 32 random bytes. Never printed; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Makes a secret from bytes that only the job's processes know.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a random secret.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, TransportError> {
        random_bytes().map(Self)
    }

    /// The bytes, to pass the secret to another process of the job over a private channel.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives a key for one purpose (HKDF-SHA256).
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(b"charm4rs job secret"), &self.0)
            .expand(purpose.as_bytes(), &mut key)
            .expect("32 bytes are fewer than HKDF's limit of 255 blocks");
        key
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0 = [0; 32];
        // Keeps the store above: without it the compiler may see that the bytes are never read again.
        std::hint::black_box(&self.0);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// 32 fresh random bytes.
///
/// # Errors
/// [`TransportError::Resource`] if the system has no random numbers. There is no substitute: a secret, key or name that can be
/// guessed looks like any other.
pub fn random_bytes() -> Result<[u8; 32], TransportError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| TransportError::Resource {
        what: "random numbers",
        need: format!("{} bytes of getrandom ({error})", bytes.len()),
        advice: "permit getrandom in the container's filter of system calls, or provide /dev/urandom",
    })?;
    Ok(bytes)
}

/// A fresh random number.
///
/// # Errors
/// As for [`random_bytes`].
pub fn random_u64() -> Result<u64, TransportError> {
    let [a, b, c, d, e, f, g, h, ..] = random_bytes()?;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

/// Identifies a job, so that a stray process of another job is turned away before any cryptography. Not secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct JobId(pub [u8; 8]);

/// What an authenticated connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Messages between two PEs.
    Data,
    /// Heartbeats between two processes.
    Control,
}

/// What both ends must agree on before they exchange messages. It is compared after the proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Version of the protocol that follows the handshake.
    pub version: u16,
    /// Digest of the program: names and signatures of its entry methods. Opaque here.
    pub digest: [u8; 32],
}

impl Terms {
    /// Checks that an authenticated peer speaks our protocol and runs our program.
    ///
    /// # Errors
    /// [`TransportError::Version`] with both values.
    pub fn check(&self, theirs: &Self) -> Result<(), TransportError> {
        if self.version != theirs.version {
            return Err(TransportError::Version {
                what: "the wire protocol's version",
                ours: self.version.to_string(),
                theirs: theirs.version.to_string(),
            });
        }
        if self.digest != theirs.digest {
            return Err(TransportError::Version {
                what: "the program's digest",
                ours: hex(&self.digest),
                theirs: hex(&theirs.digest),
            });
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Why a handshake failed. One connection is dropped; nothing else changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// Not our handshake: a scanner, or garbage.
    #[error("not a handshake of charm4rs")]
    Garbage,
    /// A process of another job.
    #[error("a process of another job")]
    WrongJob,
    /// Our job's name, but the proof is wrong or was replayed.
    #[error("wrong proof")]
    WrongProof,
    /// Proven, but not the process or PE that was dialed.
    #[error("another rank than the one that was dialed")]
    WrongPeer,
}

/// The keys of a job, one for each role.
#[derive(Clone)]
pub struct Keys {
    job: JobId,
    acceptor: [u8; 32],
    dialer: [u8; 32],
}

impl Keys {
    /// Derives the keys.
    #[must_use]
    pub fn new(job: JobId, secret: &Secret) -> Self {
        Self {
            job,
            acceptor: secret.derive("charm4rs handshake, acceptor"),
            dialer: secret.derive("charm4rs handshake, dialer"),
        }
    }

    fn acceptor_mac(&self, hello: &[u8; HELLO], challenge: &[u8]) -> [u8; MAC] {
        mac(&self.acceptor, &[b"acceptor", hello, challenge])
    }

    fn dialer_mac(&self, hello: &[u8; HELLO], challenge: &[u8; CHALLENGE]) -> [u8; MAC] {
        mac(&self.dialer, &[b"dialer", hello, challenge])
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("job", &self.job).finish_non_exhaustive()
    }
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; MAC] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What a dialer says about itself and the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// Protocol and program.
    pub terms: Terms,
    /// The dialer's process.
    pub rank: u32,
    /// The PE that makes the connection.
    pub from: Pe,
    /// The PE it dials.
    pub to: Pe,
    /// The generation of the connection: its number among the connections of this pair.
    pub generation: u32,
}

/// What an acceptor says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Protocol and program.
    pub terms: Terms,
    /// The acceptor's process.
    pub rank: u32,
    /// The PE that was dialed.
    pub pe: Pe,
}

/// A field at a fixed offset. The type of the message guarantees its length.
fn field<const N: usize>(message: &[u8], at: usize) -> [u8; N] {
    message[at..at + N].try_into().expect("the field lies inside a message of fixed size")
}

fn number(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(message, at))
}

fn encode_hello(job: JobId, hello: &Hello, nonce: &[u8; 32]) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = FORM;
    bytes[5] = hello.purpose as u8;
    bytes[6..8].copy_from_slice(&hello.terms.version.to_le_bytes());
    bytes[8..16].copy_from_slice(&job.0);
    bytes[16..20].copy_from_slice(&hello.rank.to_le_bytes());
    bytes[20..24].copy_from_slice(&hello.from.0.to_le_bytes());
    bytes[24..28].copy_from_slice(&hello.to.0.to_le_bytes());
    bytes[28..32].copy_from_slice(&hello.generation.to_le_bytes());
    bytes[32..64].copy_from_slice(nonce);
    bytes[64..].copy_from_slice(&hello.terms.digest);
    bytes
}

fn decode_hello(job: JobId, bytes: &[u8; HELLO]) -> Result<Hello, AuthError> {
    let purpose = match bytes[5] {
        0 => Purpose::Data,
        1 => Purpose::Control,
        _ => return Err(AuthError::Garbage),
    };
    if field(bytes, 0) != MAGIC || bytes[4] != FORM {
        return Err(AuthError::Garbage);
    }
    if field(bytes, 8) != job.0 {
        return Err(AuthError::WrongJob);
    }
    Ok(Hello {
        purpose,
        terms: Terms { version: u16::from_le_bytes(field(bytes, 6)), digest: field(bytes, 64) },
        rank: number(bytes, 16),
        from: Pe(number(bytes, 20)),
        to: Pe(number(bytes, 24)),
        generation: number(bytes, 28),
    })
}

/// Collects exactly the bytes of one message, in place.
#[derive(Clone, Debug)]
struct Inbound<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Inbound<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], have: 0 }
    }

    /// Takes the bytes of `input` that are still missing, and returns the rest.
    fn take<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let (ours, rest) = input.split_at(input.len().min(N - self.have));
        self.bytes[self.have..self.have + ours.len()].copy_from_slice(ours);
        self.have += ours.len();
        rest
    }
}

/// The result of a step of a handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<R, P> {
    /// More bytes are needed: this many ([`Acceptor::wanted`], [`Dialer::wanted`]).
    More,
    /// Send these bytes, and continue.
    Reply(R),
    /// The peer has proven itself.
    Proven(P),
}

/// The end that accepted the connection.
#[derive(Clone, Debug)]
pub struct Acceptor {
    keys: Keys,
    terms: Terms,
    rank: u32,
    nonce: [u8; 32],
    state: AcceptorState,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "at most 64 are pending, and none may allocate")]
enum AcceptorState {
    Hello(Inbound<HELLO>),
    Proof { proof: Inbound<PROOF>, hello: Hello, expected: [u8; MAC] },
    Over,
}

impl Acceptor {
    /// Starts, and waits for a HELLO. `nonce` must be fresh and used once.
    #[must_use]
    pub fn new(keys: &Keys, terms: Terms, rank: u32, nonce: [u8; 32]) -> Self {
        Self { keys: keys.clone(), terms, rank, nonce, state: AcceptorState::Hello(Inbound::new()) }
    }

    /// How many bytes it can take now. The caller must not read more: what follows does not belong to the handshake.
    #[must_use]
    pub fn wanted(&self) -> usize {
        match &self.state {
            AcceptorState::Hello(inbound) => HELLO - inbound.have,
            AcceptorState::Proof { proof, .. } => PROOF - proof.have,
            AcceptorState::Over => 0,
        }
    }

    /// Whether the peer has shown that it wants to reach this job (not that it belongs to it).
    #[must_use]
    pub fn greeted(&self) -> bool {
        matches!(self.state, AcceptorState::Proof { .. })
    }

    /// Takes bytes of the dialer, at most [`Acceptor::wanted`]; more are an error.
    ///
    /// # Errors
    /// The caller must drop the connection.
    pub fn accept_bytes(&mut self, input: &[u8]) -> Result<Step<[u8; CHALLENGE], Hello>, AuthError> {
        match &mut self.state {
            AcceptorState::Hello(inbound) => {
                if !inbound.take(input).is_empty() {
                    return Err(self.fail(AuthError::Garbage));
                }
                // A stranger is turned away at the first byte that differs: it need not send a whole message.
                let seen = inbound.have.min(MAGIC.len());
                if inbound.bytes[..seen] != MAGIC[..seen] {
                    return Err(self.fail(AuthError::Garbage));
                }
                if inbound.have < HELLO {
                    return Ok(Step::More);
                }
                let bytes = inbound.bytes;
                let hello = decode_hello(self.keys.job, &bytes).map_err(|e| self.fail(e))?;
                let challenge = self.challenge(&bytes, &hello);
                let expected = self.keys.dialer_mac(&bytes, &challenge);
                self.state = AcceptorState::Proof { proof: Inbound::new(), hello, expected };
                Ok(Step::Reply(challenge))
            }
            AcceptorState::Proof { proof, hello, expected } => {
                if !proof.take(input).is_empty() {
                    return Err(self.fail(AuthError::Garbage));
                }
                if proof.have < PROOF {
                    return Ok(Step::More);
                }
                if !bool::from(proof.bytes.ct_eq(expected)) {
                    return Err(self.fail(AuthError::WrongProof));
                }
                let hello = *hello;
                self.state = AcceptorState::Over;
                Ok(Step::Proven(hello))
            }
            AcceptorState::Over => Err(AuthError::Garbage),
        }
    }

    fn challenge(&self, hello_bytes: &[u8; HELLO], hello: &Hello) -> [u8; CHALLENGE] {
        let mut bytes = [0; CHALLENGE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = FORM;
        bytes[5] = hello.purpose as u8;
        bytes[6..8].copy_from_slice(&self.terms.version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.rank.to_le_bytes());
        bytes[12..16].copy_from_slice(&hello.to.0.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.nonce);
        bytes[48..80].copy_from_slice(&self.terms.digest);
        let mac = self.keys.acceptor_mac(hello_bytes, &bytes[..CHALLENGE - MAC]);
        bytes[CHALLENGE - MAC..].copy_from_slice(&mac);
        bytes
    }

    fn fail(&mut self, error: AuthError) -> AuthError {
        self.state = AcceptorState::Over;
        error
    }
}

/// The end that made the connection.
#[derive(Clone, Debug)]
pub struct Dialer {
    keys: Keys,
    /// The process that the address belongs to.
    expected_rank: u32,
    hello: Hello,
    hello_bytes: [u8; HELLO],
    challenge: Option<Inbound<CHALLENGE>>,
}

impl Dialer {
    /// Starts: the caller sends [`Dialer::hello`] first. `nonce` must be fresh and used once.
    #[must_use]
    pub fn new(keys: &Keys, hello: Hello, expected_rank: u32, nonce: [u8; 32]) -> Self {
        let hello_bytes = encode_hello(keys.job, &hello, &nonce);
        Self { keys: keys.clone(), expected_rank, hello, hello_bytes, challenge: Some(Inbound::new()) }
    }

    /// The first message.
    #[must_use]
    pub fn hello(&self) -> &[u8; HELLO] {
        &self.hello_bytes
    }

    /// How many bytes it can take now.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.challenge.as_ref().map_or(0, |inbound| CHALLENGE - inbound.have)
    }

    /// Takes bytes of the acceptor. `Reply` is the proof: once it is sent, the handshake is complete at this end. The caller must send the
    /// proof even if [`Terms::check`] of the acceptor's answer fails, so that the acceptor learns the reason too.
    ///
    /// # Errors
    /// The caller must drop the connection.
    pub fn accept_bytes(&mut self, input: &[u8]) -> Result<Step<([u8; PROOF], Answer), ()>, AuthError> {
        let Some(inbound) = &mut self.challenge else { return Err(AuthError::Garbage) };
        let rest = inbound.take(input);
        let seen = inbound.have.min(MAGIC.len());
        if !rest.is_empty() || inbound.bytes[..seen] != MAGIC[..seen] {
            self.challenge = None;
            return Err(AuthError::Garbage);
        }
        if inbound.have < CHALLENGE {
            return Ok(Step::More);
        }
        let bytes = inbound.bytes;
        self.challenge = None;
        if bytes[4] != FORM || bytes[5] != self.hello.purpose as u8 {
            return Err(AuthError::Garbage);
        }
        let expected = self.keys.acceptor_mac(&self.hello_bytes, &bytes[..CHALLENGE - MAC]);
        if !bool::from(bytes[CHALLENGE - MAC..].ct_eq(&expected)) {
            return Err(AuthError::WrongProof);
        }
        let answer = Answer {
            terms: Terms { version: u16::from_le_bytes(field(&bytes, 6)), digest: field(&bytes, 48) },
            rank: number(&bytes, 8),
            pe: Pe(number(&bytes, 12)),
        };
        if answer.rank != self.expected_rank || answer.pe != self.hello.to {
            return Err(AuthError::WrongPeer);
        }
        Ok(Step::Reply((self.keys.dialer_mac(&self.hello_bytes, &bytes), answer)))
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
