//! The laws of the handshake, without a socket.

use proptest::prelude::*;

use super::*;

const TERMS: Terms = Terms { version: 1, digest: [7; 32] };
const HELLO_OF_3: Hello =
    Hello { purpose: Purpose::Data, terms: TERMS, rank: 3, from: Pe(6), to: Pe(1), generation: 1 };

fn keys(secret: u8) -> Keys {
    Keys::new(JobId(*b"job 1234"), &Secret::new([secret; 32]))
}

fn pair(dialer_secret: u8, acceptor_secret: u8) -> (Dialer, Acceptor) {
    let dialer = Dialer::new(&keys(dialer_secret), HELLO_OF_3, 0, [1; 32]);
    (dialer, Acceptor::new(&keys(acceptor_secret), TERMS, 0, [2; 32]))
}

fn challenge(acceptor: &mut Acceptor, hello: &[u8]) -> [u8; CHALLENGE] {
    let Step::Reply(bytes) = acceptor.accept_bytes(hello).unwrap() else { panic!("a challenge") };
    bytes
}

fn proof(dialer: &mut Dialer, challenge: &[u8]) -> [u8; PROOF] {
    let Step::Reply((bytes, _)) = dialer.accept_bytes(challenge).unwrap() else { panic!("a proof") };
    bytes
}

#[test]
fn two_processes_of_a_job_prove_themselves_to_each_other() {
    let (mut dialer, mut acceptor) = pair(1, 1);
    let challenge = challenge(&mut acceptor, dialer.hello());
    let Step::Reply((proof, answer)) = dialer.accept_bytes(&challenge).unwrap() else { panic!("a proof") };
    assert_eq!(answer, Answer { terms: TERMS, rank: 0, pe: Pe(1) });
    assert_eq!(acceptor.accept_bytes(&proof), Ok(Step::Proven(HELLO_OF_3)));
}

#[test]
fn the_handshake_works_byte_by_byte_and_reads_no_byte_too_many() {
    let (mut dialer, mut acceptor) = pair(1, 1);
    let hello = *dialer.hello();
    for (at, byte) in hello[..HELLO - 1].iter().enumerate() {
        assert_eq!(acceptor.wanted(), HELLO - at);
        assert_eq!(acceptor.accept_bytes(&[*byte]), Ok(Step::More));
    }
    let challenge = challenge(&mut acceptor, &hello[HELLO - 1..]);
    assert_eq!(dialer.accept_bytes(&challenge[..40]), Ok(Step::More));
    assert_eq!(dialer.wanted(), CHALLENGE - 40);
    let proof = proof(&mut dialer, &challenge[40..]);
    assert_eq!((dialer.wanted(), acceptor.wanted()), (0, PROOF));
    assert!(matches!(acceptor.accept_bytes(&proof), Ok(Step::Proven(_))));
    assert_eq!(acceptor.wanted(), 0);
}

#[test]
fn both_ends_detect_a_wrong_secret() {
    let (mut dialer, mut acceptor) = pair(1, 2);
    let challenge = challenge(&mut acceptor, dialer.hello());
    assert_eq!(dialer.accept_bytes(&challenge), Err(AuthError::WrongProof));
    assert_eq!(acceptor.accept_bytes(&[0; PROOF]), Err(AuthError::WrongProof));
}

#[test]
fn another_job_is_turned_away_before_any_proof() {
    let other = Keys::new(JobId(*b"job 9999"), &Secret::new([1; 32]));
    let dialer = Dialer::new(&other, HELLO_OF_3, 0, [1; 32]);
    let (_, mut acceptor) = pair(1, 1);
    assert_eq!(acceptor.accept_bytes(dialer.hello()), Err(AuthError::WrongJob));
}

#[test]
fn a_replayed_handshake_is_refused() {
    let (mut dialer, mut acceptor) = pair(1, 1);
    let first = challenge(&mut acceptor, dialer.hello());
    let proof = proof(&mut dialer, &first);
    let mut later = Acceptor::new(&keys(1), TERMS, 0, [3; 32]);
    let _ = challenge(&mut later, dialer.hello());
    assert_eq!(later.accept_bytes(&proof), Err(AuthError::WrongProof));
}

#[test]
fn a_reflected_proof_of_the_acceptor_is_refused() {
    let (dialer, mut acceptor) = pair(1, 1);
    let challenge = challenge(&mut acceptor, dialer.hello());
    assert_eq!(acceptor.accept_bytes(&challenge[CHALLENGE - MAC..]), Err(AuthError::WrongProof));
}

#[test]
fn a_process_that_answers_for_another_rank_is_refused() {
    let mut dialer = Dialer::new(&keys(1), HELLO_OF_3, 0, [1; 32]);
    let mut acceptor = Acceptor::new(&keys(1), TERMS, 5, [2; 32]);
    let challenge = challenge(&mut acceptor, dialer.hello());
    assert_eq!(dialer.accept_bytes(&challenge), Err(AuthError::WrongPeer));
}

#[test]
fn a_difference_of_version_or_program_names_both_values() {
    let theirs = Terms { version: 2, ..TERMS };
    let error = TERMS.check(&theirs).unwrap_err();
    assert_eq!((error.code(), error.to_string()), (76, "the wire protocol's version differs: here 1, there 2".into()));
    let error = TERMS.check(&Terms { digest: [8; 32], ..TERMS }).unwrap_err();
    assert!(error.to_string().contains(&"07".repeat(32)) && error.to_string().contains(&"08".repeat(32)));
}

#[test]
fn a_secret_is_never_printed_and_purposes_have_different_keys() {
    let secret = Secret::new([0xAB; 32]);
    assert_eq!(format!("{secret:?}"), "Secret(..)");
    assert!(!format!("{:?}", Keys::new(JobId::default(), &secret)).contains("171"));
    assert_ne!(secret.derive("a"), secret.derive("b"));
}

proptest! {
    #[test]
    fn garbage_never_panics_never_proves_and_never_draws_an_answer(
        input in proptest::collection::vec(any::<u8>(), 0..300), split in 0usize..300,
    ) {
        let (mut dialer, mut acceptor) = pair(1, 1);
        let (a, b) = input.split_at(split.min(input.len()));
        for part in [a, b] {
            prop_assert!(!matches!(acceptor.accept_bytes(part), Ok(Step::Reply(_) | Step::Proven(_))));
            prop_assert!(!matches!(dialer.accept_bytes(part), Ok(Step::Reply(_))));
        }
    }

    #[test]
    fn any_flipped_bit_is_refused(message in 0usize..3, at in 0usize..CHALLENGE * 8) {
        let flip = |bytes: &mut [u8]| {
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
        };
        let (mut dialer, mut acceptor) = pair(1, 1);
        let mut hello = *dialer.hello();
        if message == 0 {
            flip(&mut hello);
        }
        let Ok(Step::Reply(mut challenge)) = acceptor.accept_bytes(&hello) else { return Ok(()) };
        if message == 1 {
            flip(&mut challenge);
        }
        let Ok(Step::Reply((mut proof, _))) = dialer.accept_bytes(&challenge) else { return Ok(()) };
        if message == 2 {
            flip(&mut proof);
        }
        prop_assert!(acceptor.accept_bytes(&proof).is_err());
    }
}
