//! Processes that have only a key space find out the layout, the secret, and what does not fit together.

use std::os::fd::AsFd;

use super::*;
use crate::pmi1::tests::job;

fn one(host: u8, pes: u32) -> Introduction {
    Introduction { pes, host: [host; 32], name: format!("h{host}"), socket: [0; 16], job: None }
}

#[test]
fn processes_of_a_host_have_consecutive_numbers_however_they_were_started() {
    let check = |hosts: &[u8], want: &[u32], per_host: &[u32]| {
        let all: Vec<_> = hosts.iter().map(|host| one(*host, u32::from(*host))).collect();
        let (layout, numbers) = arrange(&all);
        assert_eq!(numbers, want);
        let pes: Vec<u32> = want.iter().map(|number| all[*number as usize].pes).collect();
        assert_eq!(layout, Layout::new(&pes, per_host));
    };
    check(&[1, 1, 1], &[0, 1, 2], &[3]);
    check(&[1, 1, 2, 2], &[0, 1, 2, 3], &[2, 2]);
    check(&[2, 1, 2, 1, 3], &[0, 2, 1, 3, 4], &[2, 2, 1]);
}

#[test]
fn an_introduction_is_decoded_and_everything_else_is_refused() {
    let mut own = one(3, 4);
    for job in [None, Some((JobId([5; 8]), Secret::new([6; 32])))] {
        own.job = job;
        let bytes = own.encode();
        assert_eq!(Introduction::decode(&bytes), Ok(own.clone()));
        assert!((0..bytes.len()).all(|len| Introduction::decode(&bytes[..len]).is_err()));
        assert!(Introduction::decode(&[&bytes[..], &[0]].concat()).is_err());
        for place in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[place] ^= 0x80;
            // No byte makes it panic, and those that matter are checked.
            assert!(Introduction::decode(&bad).is_err() || (6..).contains(&place), "{place}");
        }
    }
    assert_eq!(Introduction::decode(&one(0, 0).encode()), Err(WireError::Field("PEs")));
}

fn options(line: &str) -> Options {
    super::super::options::parse_program(line.split_whitespace().map(Into::into)).unwrap().options
}

fn join(space: Box<dyn KeySpace>, line: &str) -> Result<Site, BootError> {
    let options = options(line);
    let tells = Arc::new(Line::new(&*space));
    Site::join(space, &options, &tells, Control::of_site(tells.clone(), true))
}

#[test]
fn processes_that_share_a_key_space_form_a_job() {
    let seen = job(3, |pmi| {
        let mut site = join(Box::new(pmi), "++ppn 2").unwrap();
        assert_eq!((site.size(), site.layout().pes(), site.layout().hosts()), (3, 6, 1));
        site.put("k", &[u8::try_from(site.rank()).unwrap(); 100]).unwrap();
        site.fence().unwrap();
        assert_eq!(site.get_all("k").unwrap(), [vec![0; 100], vec![1; 100], vec![2; 100]]);
        assert!(site.get(3, "k").is_err() && site.get(0, "j").is_err());
        let (_reader, writer) = std::io::pipe().unwrap();
        assert!(site.share_fds(&[writer.as_fd()]).unwrap().iter().all(|fds| fds.len() == 1));
        let seen = (site.job_id(), site.secret().clone());
        site.control().report(crate::Report::Exit { code: 0 });
        seen
    });
    assert!(seen.iter().all(|one| *one == seen[0]));
    assert_ne!(seen[0].1, Secret::new([0; 32]));
}

#[test]
fn more_pes_than_fit_the_processes_are_refused_with_both_numbers() {
    let check = |line: &'static str, want: &str| {
        for error in job(2, |pmi| join(Box::new(pmi), line).map(|_| ())) {
            let error = error.unwrap_err();
            assert_eq!((error.code(), &*error.to_string()), (64, want), "{line}");
        }
    };
    let tail = "2 processes have been started, with";
    check("+p5", &format!("+p 5 does not fit: {tail} 2 PEs in all (++ppn K: K PEs to each)"));
    check("+p5 ++ppn 2", &format!("+p 5 does not fit: {tail} 4 PEs in all (++ppn K: K PEs to each)"));
    let pes = job(2, |pmi| join(Box::new(pmi), "+p6").map(|site| site.layout().pes_of(1)).unwrap());
    assert_eq!(pes, [3..6, 3..6]);
}
