//! PMI-1's lines have the form that launchers send and accept; everything else is refused.

use proptest::prelude::*;

use super::*;

#[test]
fn lines_of_launchers_are_parsed() {
    let check = |line: &str, want| assert_eq!(Reply::parse(line.as_bytes()), Ok(want), "{line}");
    let init = Reply::Init { version: "1.1".into(), taken: true };
    check("cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0", init.clone());
    check("cmd=response_to_init rc=0 pmi_subversion=1  pmi_version=1 ", init);
    let other = Reply::Init { version: "2.0".into(), taken: false };
    check("cmd=response_to_init pmi_version=2 pmi_subversion=0 rc=-1", other);
    check("cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024", Reply::Maxes { key: 64, value: 1024 });
    check("cmd=maxes rc=0 kvsname_max=256 keylen_max=256 vallen_max=1024", Reply::Maxes { key: 256, value: 1024 });
    check("cmd=my_kvsname kvsname=kvs_1_0_9_vm", Reply::Space("kvs_1_0_9_vm".into()));
    check("cmd=put_result rc=0 msg=success", Reply::Put { kept: true });
    check("cmd=put_result rc=-1 msg=no room at all", Reply::Put { kept: false });
    check("cmd=get_result rc=0 msg=success value=00ff", Reply::Get(Some("00ff".into())));
    check("cmd=get_result rc=0 msg=success value=", Reply::Get(Some(String::new())));
    check("cmd=get_result rc=-1 msg=key_zz_not_found value=unknown", Reply::Get(None));
    check("cmd=barrier_out", Reply::Barrier);
    check("cmd=barrier_out rc=0", Reply::Barrier);
    check("cmd=finalize_ack", Reply::Finalize);
}

#[test]
fn lines_that_no_launcher_sends_are_refused() {
    for line in [
        &b""[..],
        b"cmd",
        b"cmd=",
        b"cmd=bogus",
        b"rc=0",
        b"\xff\xfe",
        b"cmd=response_to_init",
        b"cmd=response_to_init pmi_version=1 pmi_subversion=1",
        b"cmd=response_to_init pmi_version=x pmi_subversion=1 rc=0",
        b"cmd=maxes kvsname_max=256 keylen_max=64",
        b"cmd=maxes keylen_max=-1 vallen_max=9",
        b"cmd=maxes keylen_max=99999999999999999999999 vallen_max=9",
        b"cmd=my_kvsname",
        b"cmd=put_result",
        b"cmd=put_result rc=fine",
        b"cmd=get_result value=00",
        b"cmd=get_result rc=0 msg=success",
    ] {
        assert!(Reply::parse(line).is_err(), "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn an_endless_line_is_refused() {
    let mut lines = Lines::default();
    lines.push(b"cmd=barrier_out\ncmd=fin");
    assert_eq!(lines.next(), Ok(Some(b"cmd=barrier_out".to_vec())));
    assert_eq!(lines.next(), Ok(None));
    lines.push(b"alize_ack\n\n");
    assert_eq!(lines.next(), Ok(Some(b"cmd=finalize_ack".to_vec())));
    assert_eq!(lines.next(), Ok(Some(Vec::new())));
    lines.push(&[b'a'; REPLY_MAX]);
    assert_eq!(lines.next(), Err(LineError::Long));
    lines.push(b"\n");
    assert_eq!(lines.next(), Err(LineError::Long));
}

fn join(pieces: &[String], max: usize) -> Result<Option<Vec<u8>>, LineError> {
    let mut joined = Joined::default();
    pieces.iter().try_fold(None, |_, piece| joined.push(piece, max))
}

#[test]
fn pieces_that_do_not_fit_together_are_refused() {
    let check = |pieces: &[&str]| {
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        assert!(join(&pieces, 100).is_err(), "{pieces:?}");
    };
    check(&[""]);
    check(&["unknown"]);
    check(&["0000000"]);
    check(&["00000001"; 2]);
    check(&["00000000", "00"]);
    check(&["0000000100ff"]);
    check(&["00000065"]);
    check(&["ffffffff"]);
    check(&["00000001g0"]);
    check(&["00000001+1"]);
    check(&["00000001é"]);
    assert_eq!(join(&["00000002ab".into()], 100), Ok(None), "more pieces follow");
}

#[test]
fn a_line_is_never_longer_than_launchers_accept() {
    for (space, key, value) in
        [("1.0", 64, 1024), ("kvs_11628_0_979767372_vm", 64, 1024), (&*"x".repeat(256), 256, 512)]
    {
        let digits = digits(space, key, value).unwrap();
        let (key, value) = ("k".repeat(key), "0".repeat(digits));
        assert!(digits.is_multiple_of(2) && digits < 1024);
        assert!(Request::Put { space, key: &key, value: &value }.encode().len() <= REQUEST_MAX, "{space}");
    }
    assert_eq!(digits("1.0", 64, 8), None);
    assert_eq!(digits(&"x".repeat(2000), 64, 1024), None);
}

proptest! {
    #[test]
    fn a_value_is_restored_from_its_pieces(value: Vec<u8>, half in 5usize..100) {
        let pieces = pieces(&value, 2 * half);
        prop_assert!(pieces.iter().all(|piece| piece.len() <= 2 * half));
        prop_assert_eq!(join(&pieces, value.len()), Ok(Some(value)));
    }

    #[test]
    fn no_line_panics(line: Vec<u8>, cut in 0usize..64, at in 0usize..64, byte: u8) {
        let _ = Reply::parse(&line);
        // Similar to what launchers send.
        for good in [&b"cmd=get_result rc=0 msg=success value=00000001ff"[..], b"cmd=maxes keylen_max=64 vallen_max=1024"] {
            let mut bad = good[..good.len().saturating_sub(cut)].to_vec();
            if let Some(place) = bad.get_mut(at) {
                *place = byte;
            }
            if let Ok(Reply::Get(Some(value))) = Reply::parse(&bad) {
                let _ = Joined::default().push(&value, 1 << 15);
            }
        }
    }
}
