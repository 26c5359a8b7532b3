//! What the configuration needs from the machine: its files, and the secrets that it refers to.

use std::env::{self, VarError};
use std::fs;
use std::path::{self, Path, PathBuf};

use super::check::{Finding, is_reference, place};
use super::read::{Part, finish};
use super::{Config, Problem, SecretRef};

/// Reads and checks the files together. Paths in them are relative to the file that names them; here they become absolute.
pub fn load(files: &[PathBuf]) -> Result<Config, Vec<Problem>> {
    load_and(files, |_| Vec::new())
}

/// Like [`load`], and every secret must have a value here: for the process that needs them.
pub fn load_with_secrets(files: &[PathBuf]) -> Result<Config, Vec<Problem>> {
    load_and(files, missing_secrets)
}

fn load_and(files: &[PathBuf], more: impl Fn(&Config) -> Vec<Finding>) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut texts = Vec::new();
    for path in files {
        let file = path.display().to_string();
        match path::absolute(path).and_then(|absolute| Ok((absolute, fs::read_to_string(path)?))) {
            Ok((absolute, text)) => texts.push((file, absolute, text)),
            Err(error) => {
                problems.push(Problem { file, line: 0, column: 0, message: format!("cannot be read: {error}") });
            }
        }
    }
    let mut parts = Vec::new();
    for (file, absolute, text) in &texts {
        let mut part = Part::read(file, text, &mut problems);
        part.config.rebase(absolute.parent().unwrap_or(absolute));
        parts.push(part);
    }
    finish(parts, problems, more)
}

fn missing_secrets(config: &Config) -> Vec<Finding> {
    let of_sources = config.sources.iter().flat_map(|(name, source)| {
        let path = ["sources", name, "auth"].map(String::from);
        source.auth.references().map(move |(key, secret)| ([&path[..], &key].concat(), secret))
    });
    let of_endpoints = config.endpoints.iter().flat_map(|(name, endpoint)| {
        let secrets = endpoint.secrets.iter().map(|(key, secret)| ("secrets", key.as_str(), secret));
        let of_smtp = endpoint.smtp.iter().flat_map(|smtp| smtp.secrets()).map(|(key, secret)| ("smtp", key, secret));
        secrets
            .chain(of_smtp)
            .map(move |(table, key, secret)| (["endpoints", name, table, key].map(String::from).to_vec(), secret))
    });
    // What the hub keeps is known when it is applied.
    let here = |secret: &SecretRef| is_reference(&secret.0) && secret.stored().is_none();
    let secrets = of_sources.chain(of_endpoints).filter(|(_, secret)| here(secret));
    let missing = secrets.filter_map(|(path, secret)| {
        let reason = resolve(secret, Path::new("")).err()?;
        Some(Finding { message: format!("{}: {reason}", place(&path)), path })
    });
    missing.collect()
}

/// The bytes of a secret. `base` is where a relative `file:` begins. One line break at the end of a file is not part of it.
/// The error is one sentence for the operator; it repeats the reference, never a value.
pub fn resolve(secret: &SecretRef, base: &Path) -> Result<Vec<u8>, String> {
    let bytes = if let Some(name) = secret.0.strip_prefix("env:") {
        match env::var(name) {
            Ok(value) => value.into_bytes(),
            Err(VarError::NotPresent) => {
                return Err(format!(
                    "the environment variable {name} is not set: set it, or refer to a file with file:PATH"
                ));
            }
            Err(VarError::NotUnicode(_)) => {
                return Err(format!("the environment variable {name} is not UTF-8: use file:PATH for such a secret"));
            }
        }
    } else if let Some(path) = secret.0.strip_prefix("file:") {
        let path = base.join(path);
        let mut bytes =
            fs::read(&path).map_err(|error| format!("the secret in {} cannot be read: {error}", path.display()))?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        bytes
    } else {
        return Err("a secret is a reference, env:NAME, file:PATH or stored:NAME, and never the value itself".into());
    };
    if bytes.is_empty() {
        return Err(format!("the secret {} is empty: give it a value, or remove the reference", secret.0));
    }
    Ok(bytes)
}

impl Config {
    fn rebase(&mut self, base: &Path) {
        for connector in self.connectors.values_mut() {
            connector.file = joined(base, &connector.file);
        }
        let of_sources = self.sources.values_mut().flat_map(|source| source.auth.references_mut());
        let of_endpoints = self.endpoints.values_mut().flat_map(|endpoint| {
            let of_smtp = endpoint.smtp.iter_mut().flat_map(|smtp| [&mut smtp.username, &mut smtp.password]);
            endpoint.secrets.values_mut().chain(of_smtp.flatten())
        });
        for secret in of_sources.chain(of_endpoints) {
            if let Some(path) = secret.0.strip_prefix("file:") {
                secret.0 = format!("file:{}", joined(base, path));
            }
        }
    }
}

/// An absolute path stays as it is, and an empty one stays wrong.
fn joined(base: &Path, path: &str) -> String {
    if path.is_empty() { String::new() } else { base.join(path).display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_file_or_environment_and_is_never_empty() {
        let dir = env::temp_dir().join(format!("tomada-secrets-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("unix"), "s3cr3t\n").unwrap();
        fs::write(dir.join("windows"), "s3cr3t\r\n").unwrap();
        fs::write(dir.join("two-lines"), "s3cr3t\n\n").unwrap();
        fs::write(dir.join("empty"), "\n").unwrap();
        let read = |reference: &str| resolve(&SecretRef(reference.into()), &dir);

        assert_eq!(read("file:unix").unwrap(), b"s3cr3t");
        assert_eq!(read("file:windows").unwrap(), b"s3cr3t");
        assert_eq!(read("file:two-lines").unwrap(), b"s3cr3t\n");
        assert!(read("file:empty").unwrap_err().contains("file:empty is empty"));
        assert!(read("file:absent").unwrap_err().contains("absent cannot be read"));
        assert!(!read("env:PATH").unwrap().is_empty());
        assert!(read("env:TOMADA_NO_SUCH_VARIABLE").unwrap_err().contains("TOMADA_NO_SUCH_VARIABLE is not set"));
        let error = read("s3cr3t").unwrap_err();
        assert!(error.contains("reference") && !error.contains("s3cr3t"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn files_are_read_together_and_their_paths_are_relative_to_each() {
        let dir = env::temp_dir().join(format!("tomada-config-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        let (one, two) = (dir.join("one.toml"), dir.join("sub/two.toml"));
        fs::write(&one, "[endpoints.crm]\nconnector = \"crm\"\nsecrets.key = \"file:key\"\n").unwrap();
        fs::write(
            &two,
            "[connectors.crm]\nfile = \"crm.wasm\"\n[[routes]]\nevent = \"lead.created\"\nendpoint = \"crm\"\n",
        )
        .unwrap();
        let config = load(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(config.connectors["crm"].file, dir.join("sub/crm.wasm").display().to_string());
        assert_eq!(config.endpoints["crm"].secrets["key"].0, format!("file:{}", dir.join("key").display()));
        assert_eq!(config.routes.len(), 1);

        // Declared twice, and a route of the second file that leads nowhere.
        fs::write(
            &two,
            "[endpoints.crm]\nconnector = \"crm\"\n[[routes]]\nevent = \"lead.created\"\nendpoint = \"crn\"\n",
        )
        .unwrap();
        let problems = load(&[one.clone(), two.clone()]).unwrap_err();
        let said: Vec<String> = problems.iter().map(Problem::to_string).collect();
        let (one, two) = (one.display().to_string(), two.display().to_string());
        assert_eq!(
            said,
            [
                format!("{two}:1:12: endpoint \"crm\" is declared in {one}:1 already"),
                format!(
                    "{two}:5:12: endpoint of route 1 is \"crn\", and there is no such endpoint: did you mean \"crm\"?"
                ),
            ]
        );
        fs::write(
            dir.join("sub/two.toml"),
            "[endpoints.zapi]\nconnector = \"zapi\"\nsecrets.key = \"env:TOMADA_NO_SUCH_VARIABLE\"\n",
        )
        .unwrap();
        let problems = load_with_secrets(&[dir.join("one.toml"), dir.join("sub/two.toml")]).unwrap_err();
        let said: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(
            said[0].starts_with(&format!("{one}:3:15: secrets.key of endpoint \"crm\": the secret in ")),
            "{said:?}"
        );
        assert!(
            said[1].starts_with(&format!("{two}:3:15: secrets.key of endpoint \"zapi\": the environment")),
            "{said:?}"
        );

        let absent = load(&[dir.join("absent.toml")]).unwrap_err();
        assert!(absent[0].to_string().contains("absent.toml: cannot be read"), "{absent:?}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
