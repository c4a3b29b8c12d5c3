//! Executes the page "Your own crate": its files are written into an empty folder outside the workspace, and its commands run there one after the
//! other. The folder and the build stay the same from run to run, so only the first run builds the dependencies.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The blocks of a page in `language`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().expect("a block ends")).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// An empty folder outside of any workspace; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let mut hasher = DefaultHasher::new();
        root().hash(&mut hasher);
        let path = std::env::temp_dir().join(format!("charm4rs-own-crate-{:x}", hasher.finish()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_page_of_an_own_crate_leads_from_an_empty_folder_to_a_job_of_four_pes() {
    let page = fs::read_to_string(root().join("docs/src/own-crate.md")).expect("the page");
    let folder = Folder::new();
    let own = folder.0.join("particles");
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("own-crate");
    fs::create_dir_all(own.join("src")).expect("a folder");
    fs::create_dir_all(&built).expect("a folder");
    symlink(root(), folder.0.join("charm4rs")).expect("a link");
    symlink(&built, own.join("target")).expect("a link");
    fs::write(own.join("Cargo.toml"), blocks(&page, "toml")[0]).expect("a file");
    fs::write(own.join("src/main.rs"), blocks(&page, "rust")[0]).expect("a file");
    // The versions that are already downloaded, so that the registry is not needed.
    fs::copy(root().join("Cargo.lock"), own.join("Cargo.lock")).expect("a file");

    let path = std::env::var("PATH").unwrap_or_default();
    let mut printed = String::new();
    for line in blocks(&page, "sh").into_iter().flat_map(str::lines) {
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(&own);
        command.env("PATH", format!("{}/bin:{path}", folder.0.display()));
        command.env("CARGO_INSTALL_ROOT", &folder.0).env("CARGO_TARGET_DIR", &built).env("CARGO_NET_OFFLINE", "true");
        // As on the page, but quick to build.
        command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
        command.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        let ran = command.output().expect("bash can be started");
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
        printed += &String::from_utf8_lossy(&ran.stdout);
    }
    let says = blocks(&page, "text")[0];
    assert_eq!(printed, says.repeat(2), "charmrun and cargo charmrun print what the page says");
    for program in ["charmrun", "cargo-charmrun"] {
        assert!(folder.0.join("bin").join(program).exists(), "{program} is installed");
    }
}
