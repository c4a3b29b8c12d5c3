//! What command lines mean.

use super::*;

fn read(line: &str, extent: Extent) -> Result<(Options, Vec<String>), String> {
    parse(line.split_whitespace().map(OsString::from), extent)
        .map(|p| (p.options, p.rest.iter().map(|w| w.to_string_lossy().into_owned()).collect()))
        .map_err(|e| format!("{}: {e}", e.code()))
}

#[test]
fn a_launcher_reads_its_options_up_to_the_program() {
    let (options, rest) = read("+p4 ++ppn 2 ++transport=shm prog ++what +p9 -- x", Extent::ToProgram).unwrap();
    assert_eq!((options.pes, options.ppn, options.transport), (Some(4), Some(2), Some(TransportKind::Shm)));
    assert_eq!(rest, ["prog", "++what", "+p9", "--", "x"]);
    let line = "++nodelist f ++numHosts 2 ++remote-shell=rsh prog ++nodelist g";
    let (options, rest) = read(line, Extent::ToProgram).unwrap();
    assert_eq!((options.nodelist.as_deref(), options.hosts), (Some("f"), Some(2)));
    assert_eq!((options.remote_shell.as_deref(), rest.len()), (Some("rsh"), 3));
    let (options, rest) = read("+p 3 -- ++prog a", Extent::ToProgram).unwrap();
    assert_eq!((options.pes, rest), (Some(3), vec!["++prog".to_owned(), "a".to_owned()]));
}

#[test]
fn a_program_finds_its_options_anywhere_before_the_dashes() {
    let (options, rest) = read("--opt 5 +p2 -x +5 ++seed 9 y -- +p7 ++zzz --", Extent::Everywhere).unwrap();
    assert_eq!((options.pes, options.seed), (Some(2), Some(9)));
    assert_eq!(rest, ["--opt", "5", "-x", "+5", "y", "+p7", "++zzz", "--"]);
}

#[test]
fn a_wrong_option_is_refused_with_its_code_and_the_nearest_name() {
    let check = |line: &str, want: &str| assert_eq!(read(line, Extent::Everywhere).unwrap_err(), want, "{line}");
    check("++transprot shm", "64: unknown option ++transprot (did you mean ++transport?)");
    check("++pnn 2", "64: unknown option ++pnn (did you mean ++ppn?)");
    check("++zzzzzzzzzz", "64: unknown option ++zzzzzzzzzz");
    check("+p0", "64: +p 0: the number of PEs must be between 1 and 1048576");
    check("+p-4", "64: +p -4: the number of PEs must be between 1 and 1048576");
    check("+p 99999999999", "64: +p 99999999999: the number of PEs must be between 1 and 1048576");
    check("+p", "64: +p needs a value: +p N");
    check("++timeout nan", "64: ++timeout nan: must be a number of seconds, up to a year");
    check("++timeout 1e300", "64: ++timeout 1e300: must be a number of seconds, up to a year");
    check("++checksum=1", "64: unknown option ++checksum=1 (did you mean ++checksum?)");
    check("++credit 12", "64: ++credit 12: must be a number of bytes, 64K or more");
    check("++message-max 1", "64: ++message-max 1: must be a number of bytes, 64K or more");
    check("++encrypt", "78: ++encrypt is not available in this version: use it on a trusted network");
    check("++nodelist f", "64: ++nodelist is for the launcher, in front of the program: charmrun ++nodelist … PROGRAM");
    check("++bootstrap mpi", "64: ++bootstrap mpi: must be charmrun, pmix, pmi1 or alone");
    check(
        "++transport mpi",
        "78: ++transport mpi: there is no such transport; there are local, shm, tcp, ofi, ucx and sim",
    );
    let misplaced = read("++bootstrap alone prog", Extent::ToProgram).unwrap_err();
    assert_eq!(misplaced, "64: ++bootstrap is for a program, behind its name: PROGRAM ++bootstrap …");
    assert_eq!(read("prog ++bootstrap pmi1", Extent::Everywhere).unwrap().0.bootstrap, Some(super::Kind::Pmi1));
    assert_eq!(read("+zz prog", Extent::ToProgram).unwrap_err(), "64: unknown option +zz");
}

#[test]
fn options_survive_the_way_to_a_process() {
    let line = "+p8 ++ppn 2 ++transport tcp ++timeout 2.5 ++no-liveness ++credit 2M ++message-max 3G ++checksum ++seed 7 +pemap 0-3 \
                ++hang-timeout 3 ++quiet ++verbose ++prefix-output";
    let options = read(line, Extent::ToProgram).unwrap().0;
    assert_eq!(Options::from_pairs(&options.to_pairs()), Ok(options));
    assert_eq!(Options::from_pairs(&Options::default().to_pairs()), Ok(Options::default()));
}

#[test]
fn a_program_may_repeat_the_shape_of_its_job_but_not_change_it() {
    let launcher = read("+p4 ++seed 1", Extent::ToProgram).unwrap().0;
    let program = |line| read(line, Extent::Everywhere).unwrap().0;
    let merged = launcher.overlaid(&program("+p4 ++seed 2")).unwrap();
    assert_eq!((merged.pes, merged.seed), (Some(4), Some(2)));
    let error = launcher.overlaid(&program("+p8")).unwrap_err();
    assert_eq!((error.code(), error.to_string()), (64, "+p is 4 for charmrun and 8 for the program".to_owned()));
}

#[test]
fn the_help_names_every_option() {
    let help = help();
    assert!(TABLE.iter().all(|spec| help.contains(spec.name)));
    assert!(help.lines().all(|line| line.len() <= 100));
}
