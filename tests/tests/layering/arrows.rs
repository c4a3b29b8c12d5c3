//! The allowed dependencies between crates. Knows `cargo metadata` and the lock file, no source.

/// The properties of a workspace member that the rules use.
pub(crate) struct Package {
    pub(crate) name: String,
    /// All its dependencies, including those of tests and build scripts.
    pub(crate) dependencies: Vec<String>,
    /// The root files of its libraries and programs, from the workspace's root.
    pub(crate) roots: Vec<String>,
    /// Its folder, from the workspace's root.
    pub(crate) folder: String,
}

impl Package {
    pub(crate) fn from_metadata(package: &cargo_metadata::Package) -> Self {
        let root = super::root();
        let relative = |path: &cargo_metadata::camino::Utf8Path| {
            path.strip_prefix(root.to_str().expect("the path is text")).expect("a member lies in the tree").to_string()
        };
        Self {
            name: package.name.to_string(),
            dependencies: package.dependencies.iter().map(|d| d.name.clone()).collect(),
            roots: package
                .targets
                .iter()
                .filter(|t| t.is_lib() || t.is_bin() || t.is_proc_macro() || t.is_cdylib() || t.is_example())
                .map(|t| relative(&t.src_path))
                .collect(),
            folder: relative(package.manifest_path.parent().expect("a manifest lies in a folder")),
        }
    }
}

/// For each crate, the crates of the workspace that it may name. `*`: every public crate.
pub(crate) const ALLOWED: &[(&str, &[&str])] = &[
    ("charm4rs-libfabric-sys", &[]),
    ("charm4rs-ucx-sys", &[]),
    ("charm4rs-transport-core", &[]),
    ("charm4rs-transport-testkit", &["charm4rs-transport-core"]),
    ("charm4rs-bootstrap", &["charm4rs-transport-core", "charm4rs-transport-testkit"]),
    ("charm4rs-tcp", &["charm4rs-transport-core", "charm4rs-transport-testkit"]),
    ("charm4rs-ofi", &["charm4rs-transport-core", "charm4rs-transport-testkit", "charm4rs-libfabric-sys"]),
    ("charm4rs-ucx", &["charm4rs-transport-core", "charm4rs-transport-testkit", "charm4rs-ucx-sys"]),
    (
        "charm4rs-transport",
        &[
            "charm4rs-transport-core",
            "charm4rs-transport-testkit",
            "charm4rs-bootstrap",
            "charm4rs-tcp",
            "charm4rs-ofi",
            "charm4rs-ucx",
        ],
    ),
    ("charm4rs-scheduler", &["charm4rs-transport"]),
    ("charm4rs-macros", &[]),
    (
        "charm4rs",
        &[
            "charm4rs-transport",
            "charm4rs-transport-testkit",
            "charm4rs-bootstrap",
            "charm4rs-scheduler",
            "charm4rs-macros",
        ],
    ),
    // It asks the fabrics only for what they find, for `++info`.
    (
        "charm4rs-launcher",
        &[
            "charm4rs-transport-core",
            "charm4rs-transport-testkit",
            "charm4rs-bootstrap",
            "charm4rs-ofi",
            "charm4rs-ucx",
        ],
    ),
    ("charm4rs-python-form", &[]),
    ("charm4rs-python", &["charm4rs", "charm4rs-launcher", "charm4rs-python-form"]),
    ("charm4rs-examples", &["*"]),
    // The backend itself needs core alone; the others are for its program and its tests.
    (
        "charm4rs-example-backend",
        &["charm4rs-transport-core", "charm4rs-transport-testkit", "charm4rs", "charm4rs-examples"],
    ),
    ("charm4rs-bench", &["*"]),
    ("charm4rs-tests", &["*"]),
    ("charm4rs-compile-fail", &["charm4rs"]),
];

/// Dependencies that a layer must not have, with the reason. `*`: every crate; `!name`: every crate but that one.
pub(crate) const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("charm4rs-scheduler", &["serde", "postcard", "serde_json", "bincode"], "a message is bytes to it"),
    ("charm4rs-scheduler", &["inventory", "syn"], "it knows nothing of chares"),
    ("charm4rs-launcher", &["inventory", "syn"], "it knows nothing of chares"),
    ("!charm4rs-python", &["pyo3", "numpy"], "only the Python crate owns the interpreter"),
    ("*", &["anyhow", "eyre"], "errors are typed"),
];

const ASYNC_RUNTIMES: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "async-executor",
    "async-global-executor",
    "glommio",
    "monoio",
    "compio",
    "actix-rt",
    "embassy-executor",
    "futures-executor",
];

/// Arrows between workspace members that `allowed` does not have, and members it does not know.
pub(crate) fn violations(packages: &[Package], allowed: &[(&str, &[&str])]) -> Vec<String> {
    let ours = |name: &str| packages.iter().any(|p| p.name == name);
    let mut found = Vec::new();
    for package in packages {
        let Some((_, may)) = allowed.iter().find(|(name, _)| *name == package.name) else {
            found.push(format!("{} is not in the table of arrows", package.name));
            continue;
        };
        for to in package.dependencies.iter().filter(|to| ours(to) && **to != package.name) {
            if !may.contains(&"*") && !may.contains(&to.as_str()) {
                found.push(format!("{} must not depend on {to}", package.name));
            }
        }
    }
    for (name, _) in allowed.iter().filter(|(name, _)| !ours(name)) {
        found.push(format!("the table of arrows has {name}, the workspace does not"));
    }
    found
}

/// Third-party dependencies that `forbidden` names.
pub(crate) fn forbidden_dependencies(packages: &[Package], forbidden: &[(&str, &[&str], &str)]) -> Vec<String> {
    let meant =
        |who: &str, name: &str| who == "*" || who == name || who.strip_prefix('!').is_some_and(|not| not != name);
    let mut found = Vec::new();
    for package in packages {
        for (_, names, why) in forbidden.iter().filter(|(who, ..)| meant(who, &package.name)) {
            for name in package.dependencies.iter().filter(|d| names.contains(&d.as_str())) {
                found.push(format!("{} must not depend on {name}: {why}", package.name));
            }
        }
    }
    found
}

/// Async runtimes among all dependencies, including transitive ones.
pub(crate) fn async_runtimes(lock: &str) -> Vec<String> {
    lock.lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| ASYNC_RUNTIMES.contains(name))
        .map(|name| format!("{name} is an async runtime; tasks run on the scheduler's own executor"))
        .collect()
}

mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|d| (*d).to_owned()).collect();
        Package { name: name.to_owned(), dependencies, roots: Vec::new(), folder: String::new() }
    }

    #[test]
    fn an_arrow_upwards_is_found_and_one_downwards_is_not() {
        let allowed: &[(&str, &[&str])] = &[("low", &[]), ("high", &["low"]), ("bench", &["*"])];
        let ours = |low: &[&str]| {
            [package("low", low), package("high", &["low", "serde"]), package("bench", &["high", "low"])]
        };
        assert_eq!(violations(&ours(&["libc"]), allowed), [""; 0]);
        assert_eq!(violations(&ours(&["high"]), allowed), ["low must not depend on high"]);
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_found_and_a_row_without_a_crate_too() {
        assert_eq!(violations(&[package("new", &[])], &[]), ["new is not in the table of arrows"]);
        assert_eq!(violations(&[], &[("old", &[])]), ["the table of arrows has old, the workspace does not"]);
    }

    #[test]
    fn forbidden_dependencies_are_found_for_one_crate_for_all_and_for_all_but_one() {
        let forbidden: &[(&str, &[&str], &str)] =
            &[("a", &["serde"], "bytes"), ("*", &["anyhow"], "typed"), ("!b", &["libc"], "only b")];
        let packages = [package("a", &["serde", "libc"]), package("b", &["serde", "anyhow", "libc"])];
        assert_eq!(
            forbidden_dependencies(&packages, forbidden),
            [
                "a must not depend on serde: bytes",
                "a must not depend on libc: only b",
                "b must not depend on anyhow: typed"
            ]
        );
    }

    #[test]
    fn an_async_runtime_is_found_in_a_lock_file() {
        let lock = "[[package]]\nname = \"libc\"\n\n[[package]]\nname = \"tokio\"\ndependencies = [\n \"smol\",\n]\n";
        assert_eq!(async_runtimes(lock), ["tokio is an async runtime; tasks run on the scheduler's own executor"]);
    }
}
