//! The components that `make components` built, and variants of them.

use std::path::PathBuf;

/// The tomada program, beside this test's.
pub(crate) fn tomada() -> PathBuf {
    let program = profile_directory().join("tomada");
    assert!(program.exists(), "{} is missing: run `make test`, which builds it first", program.display());
    program
}

/// target/debug
fn profile_directory() -> PathBuf {
    let this = std::env::current_exe().expect("this program has a path");
    this.ancestors().nth(2).expect("it lies in a deps directory").to_owned()
}

pub(crate) fn path(name: &str) -> PathBuf {
    let path = profile_directory().with_file_name("components").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `make test`, which builds the components first", path.display());
    path
}

pub(crate) fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("the component can be read")
}

/// The same component with another digest: a custom section more, which changes nothing else.
pub(crate) fn variant(name: &str, tag: u32) -> Vec<u8> {
    use wasm_encoder::{ComponentSection as _, CustomSection};
    let mut component = read(name);
    let tag = tag.to_le_bytes();
    let section = CustomSection { name: "variant".into(), data: tag[..].into() };
    section.append_to_component(&mut component);
    component
}
