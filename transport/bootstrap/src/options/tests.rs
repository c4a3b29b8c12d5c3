//! The meaning of command lines.

use super::*;

type Words = Vec<String>;

fn words(parsed: Result<Parsed, OptionError>) -> Result<(Options, Words), String> {
    parsed
        .map(|p| (p.options, p.rest.iter().map(|w| w.to_string_lossy().into_owned()).collect()))
        .map_err(|e| format!("{}: {e}", e.code()))
}

fn launcher(line: &str) -> Result<(Options, Words), String> {
    words(parse_launcher(line.split_whitespace().map(OsString::from)))
}

fn program(line: &str) -> Result<(Options, Words), String> {
    words(parse_program(line.split_whitespace().map(OsString::from)))
}

/// A valid value for each option that has one.
fn sample(entry: &Entry) -> &'static str {
    match entry.name {
        "++transport" => "tcp",
        "++bootstrap" => "alone",
        "++credit" | "++message-max" => "2M",
        _ if entry.value.is_empty() => "",
        _ => "3",
    }
}

#[test]
fn options_behind_the_program_count_as_those_in_front() {
    let check = |line: &str, pes, rest: &str| {
        let (options, words) = launcher(line).unwrap();
        assert_eq!((options.pes, words.join(" ")), (pes, rest.to_owned()), "{line}");
    };
    check("+p4 prog a", Some(4), "prog a");
    check("prog +p4 a", Some(4), "prog a");
    check("+p4 prog a +p 4", Some(4), "prog a");
    check("prog a ++p4 -- +p5", Some(4), "prog a -- +p5");
    check("prog a ++n 2 ++ppn 3 ++ +p5", Some(6), "prog a ++ +p5");
    check("-- prog +p4", None, "prog +p4");
    check("-c CODE +p2 x", Some(2), "-c CODE x");
    check("prog +what ++what +5 +p1", Some(1), "prog +what ++what +5");
    check("prog ++bootstrap alone +p1", Some(1), "prog ++bootstrap alone");
    let (options, rest) = launcher("prog ++nodelist f ++numHosts 2 ++remote-shell=rsh ++quiet x").unwrap();
    assert_eq!((options.nodelist.as_deref(), options.hosts, options.quiet), (Some("f"), Some(2), true));
    assert_eq!((options.remote_shell.as_deref(), rest.join(" ")), (Some("rsh"), "prog x".to_owned()));
}

#[test]
fn two_sizes_of_a_job_are_refused_with_both_numbers() {
    let check = |line: &str, want: &str| {
        let want = format!("64: {want} contradict each other: give one of them");
        assert_eq!(launcher(line).unwrap_err(), want, "{line}");
    };
    check("+p2 prog +p3", "+p 2 and +p 3");
    check("+p2 +p3 prog", "+p 2 and +p 3");
    check("prog ++p 2 +p3", "+p 2 and +p 3");
    check("++ppn 2 prog +ppn 3", "++ppn 2 and ++ppn 3");
    check("++transport shm prog ++transport tcp", "++transport shm and ++transport tcp");
    check("+no-pin prog +pemap 0-3", "+pemap 0-3 and +no-pin");
    check("++n 2 ++ppn 2 prog +p3 ++np 3", "++n 2 and ++n 3");
    assert_eq!(
        launcher("++seed 1 prog ++seed 2").unwrap().0.seed,
        Some(2),
        "an option that is not part of the shape may be repeated"
    );
}

#[test]
fn a_program_finds_its_options_anywhere_before_the_dashes() {
    let (options, rest) = program("--opt 5 +p2 -x +5 ++seed 9 y -- +p7 ++zzz --").unwrap();
    assert_eq!((options.pes, options.seed), (Some(2), Some(9)));
    assert_eq!(rest, ["--opt", "5", "-x", "+5", "y", "+p7", "++zzz", "--"]);
    assert_eq!(program("a +b ++ ++c").unwrap().1, ["a", "+b", "++c"]);
}

#[test]
fn a_wrong_option_is_refused_with_its_code_and_the_nearest_name() {
    let check = |line: &str, want: &str| assert_eq!(program(line).unwrap_err(), want, "{line}");
    check("++transprot shm", "64: unknown option ++transprot (did you mean ++transport?)");
    check("++pnn 2", "64: unknown option ++pnn (did you mean ++ppn?)");
    check("++timelimt 2", "64: unknown option ++timelimt (did you mean ++timelimit?)");
    check("++scalable-strat", "64: unknown option ++scalable-strat (did you mean ++scalable-start?)");
    check("++zzzzzzzzzz", "64: unknown option ++zzzzzzzzzz");
    check("++no-zzzzzzz", "64: unknown option ++no-zzzzzzz");
    check("+p0", "64: +p 0: must be a number between 1 and 1048576");
    check("+p-4", "64: +p -4: must be a number between 1 and 1048576");
    check("+p 99999999999", "64: +p 99999999999: must be a number between 1 and 1048576");
    check("+p", "64: +p needs a value: +p N");
    check("++timeout nan", "64: ++timeout nan: must be a number of seconds, up to a year");
    check("++timeout 1e300", "64: ++timeout 1e300: must be a number of seconds, up to a year");
    check("++checksum=1", "64: unknown option ++checksum=1 (did you mean ++checksum?)");
    check("++credit 12", "64: ++credit 12: must be a number of bytes, 64K or more");
    check("++message-max 1", "64: ++message-max 1: must be a number of bytes, 64K or more");
    check("+excludecore a", "64: +excludecore a: must be the number of a CPU");
    check("++nodelist f", "64: ++nodelist is for the launcher: charmrun ++nodelist … PROGRAM");
    check("++bootstrap mpi", "64: ++bootstrap mpi: must be charmrun, pmix, pmi1 or alone");
    check(
        "++transport mpi",
        "78: ++transport mpi: there is no such transport; there are local, shm, tcp, ofi, ucx, sim and extern:NAME",
    );
    check(
        "++transport extern:",
        "78: ++transport extern:: there is no such transport; there are local, shm, tcp, ofi, ucx, sim and extern:NAME",
    );
    let misplaced = launcher("++bootstrap alone prog").unwrap_err();
    assert_eq!(misplaced, "64: ++bootstrap is for a program, behind its name: PROGRAM ++bootstrap …");
    assert_eq!(program("prog ++bootstrap pmi1").unwrap().0.bootstrap, Some(Kind::Pmi1));
    assert_eq!(launcher("+zz prog").unwrap_err(), "64: unknown option +zz");
}

#[test]
fn every_word_of_charm_is_taken_out_with_its_value_on_either_side_of_the_program() {
    for (name, value, takes) in IGNORED.iter().flat_map(words::Row::words) {
        let given = match takes {
            Takes::Nothing => name.to_owned(),
            Takes::Number | Takes::PerhapsNumber => format!("{name} 12"),
            Takes::Text => format!("{name} {value}"),
        };
        for line in [format!("{given} prog a"), format!("prog {given} a"), format!("prog a {given}")] {
            let (options, rest) = launcher(&line).unwrap();
            assert_eq!((rest.join(" "), options.ignored), ("prog a".to_owned(), vec![given.clone()]), "{line}");
        }
        let (options, rest) = program(&format!("a {given} b")).unwrap();
        assert_eq!((rest.join(" "), options.ignored), ("a b".to_owned(), vec![given]), "{name}");
        if takes == Takes::Number {
            assert_eq!(program(&format!("a {name}12 b")).unwrap().1, ["a", "b"], "{name}");
        }
    }
}

#[test]
fn an_option_that_cannot_work_is_refused_with_an_alternative_unless_taken_back() {
    for row in REFUSED {
        for (name, _, takes) in row.words() {
            let want = format!("64: {name} does not work here: {}", row.says);
            for line in [format!("{name} x prog"), format!("prog {name}"), format!("prog {name}=1")] {
                assert_eq!(launcher(&line).unwrap_err(), want, "{line}");
            }
            assert_eq!(program(name).unwrap_err(), want);
            if let Some(flag) = name.strip_prefix("++")
                && takes == Takes::Nothing
            {
                assert_eq!(program(&format!("++no-{flag} a")).unwrap().1, ["a"]);
            }
        }
    }
}

#[test]
fn each_option_has_all_its_names_on_both_sides_of_the_program() {
    for entry in OURS.iter().filter(|entry| entry.at != At::Program) {
        let ask = |line: &str| launcher(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let want = ask(&format!("{} {} prog", entry.name, sample(entry)));
        assert_ne!(want.0, Options::default(), "{}", entry.name);
        for name in std::iter::once(&entry.name).chain(entry.also) {
            assert_eq!(ask(&format!("prog {name} {}", sample(entry))), want, "{name}");
        }
    }
}

#[test]
fn a_level_may_be_missing_and_a_flag_may_be_taken_back() {
    assert_eq!(program("+LBDebug 2 a").unwrap().1, ["a"]);
    assert_eq!(program("+LBDebug2 a").unwrap().1, ["a"]);
    assert_eq!(program("+LBDebug a").unwrap().1, ["a"]);
    assert_eq!(program("a +LBDebug").unwrap().1, ["a"]);
    assert_eq!(
        program("++no-scalable-start ++quiet ++no-quiet a").unwrap(),
        (Options::default(), vec!["a".to_owned()])
    );
    assert_eq!(program("+excludecore 1 +excludecore 3").unwrap().0.exclude.as_deref(), Some("1,3"));
}

#[test]
fn no_word_has_two_meanings() {
    let ours = OURS.iter().flat_map(|entry| std::iter::once(&entry.name).chain(entry.also)).copied();
    let others = IGNORED.iter().chain(REFUSED).flat_map(words::Row::words).map(|(name, ..)| name);
    let mut names: Vec<_> = ours.chain(others).collect();
    assert!(names.len() > 200 && names.iter().all(|name| name.starts_with('+') && !name.contains(' ')));
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// An option that [`Options::to_pairs`] leaves out never reaches a process, without an error.
#[test]
fn every_option_of_a_process_reaches_it() {
    let line: Words = OURS
        .iter()
        .filter(|entry| entry.travels_as().is_some() && !["++n", "+pemap"].contains(&entry.name))
        .map(|entry| format!("{} {}", entry.name, sample(entry)))
        .collect();
    let mut options = launcher(&format!("{} ++n 1 prog", line.join(" "))).unwrap().0;
    options.pemap = Some("3".to_owned());
    assert_eq!(Options::from_pairs(&options.to_pairs()), Ok(options.clone()));
    assert_eq!(Options::from_pairs(&Options::default().to_pairs()), Ok(Options::default()));
    for transport in ["local", "shm", "ofi", "ucx", "sim", "extern:my-net"] {
        let (options, _) = launcher(&format!("++transport {transport} prog")).unwrap();
        assert_eq!(options.transport.unwrap().to_string(), transport);
        assert_eq!(Options::from_pairs(&options.to_pairs()), Ok(options));
    }
    assert_eq!(Options::default().overlaid(&options), Ok(options.clone()));
    assert_eq!(options.overlaid(&Options::default()), Ok(options));
}

/// A field that no option sets would always have its default.
#[test]
fn every_field_has_its_option() {
    let mut options = Options::default();
    for entry in OURS {
        store(&mut options, entry, sample(entry)).unwrap();
    }
    options.ignored.push("+cs".to_owned());
    let text = format!("{options:#?}");
    let unset: Vec<_> = text.lines().filter(|line| line.contains("None") || line.contains("false")).collect();
    assert!(unset.is_empty(), "{unset:?}");
}

#[test]
fn a_program_may_repeat_the_shape_of_its_job_but_not_change_it() {
    let launcher = launcher("+p4 ++seed 1").unwrap().0;
    let merged = launcher.overlaid(&program("+p4 ++seed 2").unwrap().0).unwrap();
    assert_eq!((merged.pes, merged.seed), (Some(4), Some(2)));
    let error = launcher.overlaid(&program("+p8").unwrap().0).unwrap_err();
    let want = "+p 4 for charmrun and +p 8 for the program contradict each other: give one of them";
    assert_eq!((error.code(), error.to_string()), (64, want.to_owned()));
}

#[test]
fn options_without_effect_are_listed_in_one_line_under_verbose() {
    let note = |line: &str| program(line).unwrap().0.note();
    let want = "options of Charm++ that do nothing here: +balancer GreedyLB, +LBDebug 1";
    assert_eq!(note("+balancer GreedyLB ++verbose +LBDebug 1").as_deref(), Some(want));
    assert_eq!((note("+balancer GreedyLB"), note("++verbose")), (None, None));
}

#[test]
fn the_help_names_every_option() {
    let (help, table) = (help(), charm_table());
    let ours = OURS.iter().flat_map(|entry| std::iter::once(&entry.name).chain(entry.also)).copied();
    let others = IGNORED.iter().chain(REFUSED).flat_map(words::Row::words).map(|(name, ..)| name);
    let missing: Vec<_> = ours.chain(others).filter(|name| !help.contains(name) || !table.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(help.lines().all(|line| line.len() <= 100));
}
