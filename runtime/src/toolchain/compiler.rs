//! Finding a cargo and a rustc that can compile for [`TARGET`].

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::bail;

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// Where Debian puts its own toolchain. It has no standard library for wasm, but the source of one.
const DEBIAN: &str = "/usr/bin";

/// A pair of cargo and rustc, and where their standard library for [`TARGET`] comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    sysroot: PathBuf,
    /// Whether the user's environment chose it, by `PATH`, `RUSTC` or rustup.
    active: bool,
    /// The linker, when the standard library is to be built from its source. `None`: the target is installed.
    from_source: Option<PathBuf>,
}

/// A rustc that answered, before it is known whether it can do what is wanted.
struct Candidate {
    cargo: PathBuf,
    rustc: PathBuf,
    active: bool,
    sysroot: PathBuf,
    /// The machine that it runs on, for instance `x86_64-unknown-linux-gnu`.
    host: String,
    /// Major version of its LLVM, which the linker has to match.
    llvm: String,
}

impl Compiler {
    /// The active toolchain if it has the target, else Debian's if it has; else the first of them that can build the
    /// standard library from source. The error says of each what it lacks.
    ///
    /// `dir` is where the crate is: rustup chooses by directory.
    pub(super) fn find(dir: &Path) -> anyhow::Result<Compiler> {
        let program = |name: &str, by_env: &str| env::var_os(by_env).map_or_else(|| name.into(), PathBuf::from);
        let debian = Path::new(DEBIAN);
        let mut candidates: Vec<_> = [
            Candidate::probe(dir, program("cargo", "CARGO"), program("rustc", "RUSTC"), true),
            Candidate::probe(dir, debian.join("cargo"), debian.join("rustc"), false),
        ]
        .into_iter()
        .flatten()
        .collect();
        candidates.dedup_by(|debian, active| debian.sysroot == active.sysroot);
        choose(&candidates, &env::var_os("PATH").unwrap_or_default())
    }

    /// For people: which program, and where the standard library comes from.
    pub(super) fn describe(&self) -> String {
        let library =
            if self.from_source.is_some() { "standard library built from source" } else { "installed target" };
        format!("{} ({library})", self.rustc.display())
    }

    /// A call of this cargo in `dir`, not yet told what to do.
    pub(super) fn cargo(&self, dir: &Path) -> Command {
        command(&self.cargo, &self.rustc, self.active, dir)
    }

    /// Sets what a build with this compiler needs: flags for rustc and, if need be, its standard library from source.
    ///
    /// `CARGO_ENCODED_RUSTFLAGS` is the strongest of cargo's ways to give flags. It hides those that the user set for
    /// the machine at hand, like another linker, which are wrong for wasm.
    pub(super) fn prepare(&self, cargo: &mut Command, flags: impl IntoIterator<Item = String>, root: &Path) {
        // Panic messages carry file names, and where a dependency was unpacked is nobody's business. Without them a
        // source has the same digest wherever it is built.
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
        let source = self.library_source();
        let mut flags: Vec<String> = flags.into_iter().collect();
        for (from, to) in [(home.as_deref(), "/cargo"), (Some(root), "/src"), (source.parent(), "/rustc")] {
            flags.extend(from.map(|from| format!("--remap-path-prefix={}={to}", from.display())));
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        if let Some(linker) = &self.from_source {
            // The switch is unstable in cargo, and the library's source uses what is unstable in rustc.
            cargo.env("RUSTC_BOOTSTRAP", "1").args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features="]);
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }

    fn library_source(&self) -> PathBuf {
        library_source(&self.sysroot)
    }
}

fn library_source(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library")
}

/// A toolchain that is not the active one must not be told to be: rustup's variables would make its proxies of it, and
/// under `cargo run` the library path is that of the active toolchain.
fn command(program: &Path, rustc: &Path, active: bool, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null());
    if !active {
        command.env("RUSTC", rustc);
        for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTDOC", "CARGO", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = [PathBuf::from(DEBIAN)].into_iter().chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(dirs) {
            command.env("PATH", path);
        }
    }
    command
}

impl Candidate {
    /// `None` if there is no such rustc or it does not run.
    fn probe(dir: &Path, cargo: PathBuf, rustc: PathBuf, active: bool) -> Option<Candidate> {
        let ask = |args: &[&str]| {
            let output = command(&rustc, &rustc, active, dir).args(args).stderr(Stdio::null()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask(&["-vV"])?;
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        Some(Candidate {
            sysroot: PathBuf::from(ask(&["--print", "sysroot"])?.trim()),
            host: field("host:").to_owned(),
            llvm: field("LLVM version:").split('.').next().unwrap_or_default().to_owned(),
            cargo,
            rustc,
            active,
        })
    }

    fn has_target(&self) -> bool {
        self.sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
    }

    fn has_source(&self) -> bool {
        library_source(&self.sysroot).join("std").is_dir()
    }

    /// The linker that rustup ships with a toolchain.
    fn own_linker(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-lld")
    }

    fn compiler(&self, from_source: Option<PathBuf>) -> Compiler {
        Compiler {
            cargo: self.cargo.clone(),
            rustc: self.rustc.clone(),
            sysroot: self.sysroot.clone(),
            active: self.active,
            from_source,
        }
    }
}

fn choose(candidates: &[Candidate], path: &OsStr) -> anyhow::Result<Compiler> {
    if let Some(ready) = candidates.iter().find(|candidate| candidate.has_target()) {
        return Ok(ready.compiler(None));
    }
    let mut lacking = Vec::new();
    for candidate in candidates {
        let rustc = candidate.rustc.display();
        if !candidate.has_source() {
            lacking.push(format!("{rustc} has neither the target nor the library's source"));
        } else if let Some(linker) = linker(candidate, candidates, path) {
            return Ok(candidate.compiler(Some(linker)));
        } else {
            lacking.push(format!("{rustc} has the library's source but no linker"));
        }
    }
    if lacking.is_empty() {
        lacking.push("there is no rustc in PATH".to_owned());
    }
    let llvm = candidates.last().map_or("22", |candidate| candidate.llvm.as_str());
    bail!(
        "no Rust toolchain here builds for {TARGET} ({}): run `rustup target add {TARGET}`, or on Debian \
         `apt-get install rustc-web cargo-web rust-web-src lld-{llvm}`",
        lacking.join("; "),
    )
}

/// Any toolchain's own linker will do, then one that is installed beside.
fn linker(candidate: &Candidate, candidates: &[Candidate], path: &OsStr) -> Option<PathBuf> {
    let own = [candidate].into_iter().chain(candidates).map(Candidate::own_linker);
    let names = ["rust-lld".to_owned(), format!("wasm-ld-{}", candidate.llvm), "wasm-ld".to_owned()];
    let beside = env::split_paths(path).flat_map(|dir| names.clone().map(|name| dir.join(name)));
    // A package may bring a link to the linker of another one that is not there.
    own.chain(beside).find(|path| fs::metadata(path).is_ok_and(|found| found.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A toolchain of nothing but the files that are looked for, in a fresh directory.
    fn candidate(name: &str, files: &[&str], root: &Path) -> Candidate {
        let sysroot = root.join(name);
        for file in files {
            let file = sysroot.join("lib/rustlib").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        Candidate {
            cargo: sysroot.join("cargo"),
            rustc: sysroot.join("rustc"),
            active: false,
            sysroot,
            host: "host".to_owned(),
            llvm: "22".to_owned(),
        }
    }

    const STD: &str = "wasm32-unknown-unknown/lib/libstd.rlib";
    const SOURCE: &str = "src/rust/library/std/Cargo.toml";
    const LLD: &str = "host/bin/rust-lld";

    fn chosen(candidates: &[Candidate], path: &Path) -> Result<(String, Option<PathBuf>), String> {
        let compiler = choose(candidates, path.as_os_str()).map_err(|err| err.to_string())?;
        Ok((compiler.sysroot.file_name().unwrap().to_string_lossy().into_owned(), compiler.from_source))
    }

    #[test]
    fn an_installed_target_comes_before_any_source() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let bare = || candidate("bare", &[LLD], root);
        let source = || candidate("source", &[SOURCE], root);
        let ready = || candidate("ready", &[STD], root);
        let none = root.join("nowhere");

        assert_eq!(chosen(&[source(), bare(), ready()], &none), Ok(("ready".to_owned(), None)));
        let borrowed = root.join("bare/lib/rustlib").join(LLD);
        assert_eq!(chosen(&[bare(), source()], &none), Ok(("source".to_owned(), Some(borrowed))));
        fs::write(root.join("wasm-ld-22"), "").unwrap();
        assert_eq!(chosen(&[source()], root), Ok(("source".to_owned(), Some(root.join("wasm-ld-22")))));
    }

    #[test]
    fn without_any_the_error_says_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        let none = root.path().join("nowhere");
        let said = chosen(&[], &none).unwrap_err();
        assert!(
            said.contains("no rustc in PATH") && said.contains("rustup target add wasm32-unknown-unknown"),
            "{said}"
        );
        let source = candidate("source", &[SOURCE], root.path());
        let said = chosen(&[source], &none).unwrap_err();
        assert!(said.contains("source but no linker") && said.contains("lld-22"), "{said}");
    }
}
