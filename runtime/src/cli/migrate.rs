//! `tomada migrate`: the tables of a database, brought up to date before the nodes are.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::config::{self, SecretRef};
use crate::store::migrate::{self, Progress, Step};
use crate::store::probe::{Address, Product};

/// What `--help` says beside the options.
const ORDER: &str = "\
An update goes in this order: migrate, then restart the nodes one after the other. Nodes may go on meanwhile, for
a migration first only adds (tables, columns that are null or have a default, indexes): what the version before
reads and writes stays as it is. What is in nobody's use any more goes in a later version, when no node of the
version before runs.

A node does the same at its start. This command is for whoever wants it done before, or whose nodes may not
change tables. Both take the database's own lock, so that they come one after the other.

There is no way back: restore a backup instead. SQLite belongs to one hub, which has to be stopped first.";

#[derive(Args)]
#[command(after_long_help = ORDER)]
pub(super) struct Migrate {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Data directory of the hub, where SQLite is
    #[arg(long, value_name = "DIR", default_value = "tomada-data", env = "TOMADA_DATA")]
    data: PathBuf,
    /// Only say what is missing; the exit code is 1 when something is. Changes nothing
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where the tables are.
#[derive(Args)]
pub(super) struct DatabaseArgs {
    /// Server with the tables: postgres://… or mysql://…, or file:PATH where that stands [default: SQLite in --data]
    #[arg(long, value_name = "URL", env = "TOMADA_DATABASE", hide_env_values = true)]
    database: Option<String>,
}

impl DatabaseArgs {
    pub(super) fn address(&self, data: &Path) -> anyhow::Result<Address> {
        match &self.database {
            None => Ok(Address::of_data(data)),
            Some(text) => Address::of_url(&url(text)?).map_err(|problem| anyhow::anyhow!(problem)),
        }
    }
}

/// What an option for a URL with a password says: the URL, or a reference to where it stands, as for other secrets.
/// What is given in clear can be seen by everybody on the machine (`ps`).
pub(super) fn url(text: &str) -> anyhow::Result<String> {
    if !text.starts_with("file:") && !text.starts_with("env:") {
        return Ok(text.to_owned());
    }
    let bytes =
        config::resolve(&SecretRef(text.to_owned()), Path::new("")).map_err(|problem| anyhow::anyhow!(problem))?;
    String::from_utf8(bytes).ok().with_context(|| format!("{text} is not UTF-8"))
}

pub(super) async fn run(options: Migrate) -> anyhow::Result<ExitCode> {
    let address = options.database.address(&options.data)?;
    let progress = migrate::check(&address).await.with_context(|| format!("the database at {address}"))?;
    let verdict = verdict(&progress);
    if options.check {
        if options.json {
            anstream::println!("{}", serde_json::to_string_pretty(&shown(&progress))?);
        } else {
            said(&address, &progress);
        }
        return match verdict {
            Ok(()) if progress.missing.is_empty() => Ok(ExitCode::SUCCESS),
            Ok(()) => Ok(ExitCode::FAILURE),
            Err(problem) => anyhow::bail!(problem),
        };
    }
    verdict.map_err(|problem| anyhow::anyhow!(problem))?;
    let _alone = match address.product() {
        Product::Sqlite => Some(alone(&options.data)?),
        Product::Postgres | Product::MySql => None,
    };
    let applied = migrate::run(&address).await.with_context(|| format!("the database at {address}"))?;
    if options.json {
        anstream::println!("{}", serde_json::to_string_pretty(&json!({ "applied": names(&applied) }))?);
    } else if applied.is_empty() {
        anstream::println!("{address}: up to date, {} migrations", progress.applied.len());
    } else {
        applied.iter().for_each(|step| anstream::println!("applied {step}"));
        anstream::println!("{address}: up to date, {} migrations", progress.applied.len() + applied.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// The lock that a hub on this directory holds.
fn alone(data: &Path) -> anyhow::Result<Option<std::fs::File>> {
    let path = data.join("hub.lock");
    if !data.is_dir() {
        anyhow::bail!(
            "{} is no directory: --data says where the hub's is, --database where a server is",
            data.display()
        );
    }
    if !path.exists() {
        return Ok(None);
    }
    let lock = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    lock.try_lock().map_err(|_| anyhow::anyhow!("a hub runs on {}: stop it first", data.display()))?;
    Ok(Some(lock))
}

/// Why nothing may be applied.
fn verdict(progress: &Progress) -> Result<(), String> {
    if let Some(step) = progress.changed.first() {
        return Err(format!(
            "{step} was applied in another form than this version has: the tables were made by a changed tomada; use \
             that one, or restore a backup"
        ));
    }
    match progress.later.first() {
        Some(version) => Err(format!(
            "migration {version:04} is of a later version of tomada: use that version, there is no way back"
        )),
        None => Ok(()),
    }
}

fn names(steps: &[Step]) -> Vec<String> {
    steps.iter().map(Step::to_string).collect()
}

fn shown(progress: &Progress) -> serde_json::Value {
    json!({
        "up_to_date": *progress == Progress { applied: progress.applied.clone(), ..Progress::default() },
        "applied": names(&progress.applied),
        "missing": names(&progress.missing),
        "changed": names(&progress.changed),
        "later": progress.later,
    })
}

fn said(address: &Address, progress: &Progress) {
    progress.missing.iter().for_each(|step| anstream::println!("missing {step}"));
    let (applied, missing) = (progress.applied.len(), progress.missing.len());
    anstream::println!("{address}: {applied} migrations applied, {missing} missing");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(version: i64) -> Step {
        Step { version, name: "init".into() }
    }

    #[test]
    fn what_another_version_did_is_left_alone() {
        let fine = Progress { applied: vec![step(1)], missing: vec![step(2)], ..Progress::default() };
        assert_eq!(verdict(&fine), Ok(()));
        assert_eq!(shown(&fine)["up_to_date"], false);
        let changed = Progress { changed: vec![step(1)], ..Progress::default() };
        assert!(verdict(&changed).unwrap_err().starts_with("0001_init was applied in another form"));
        let later = Progress { later: vec![12], ..Progress::default() };
        assert!(verdict(&later).unwrap_err().starts_with("migration 0012 is of a later version"));
    }

    #[test]
    fn a_url_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        std::fs::write(&path, "postgres://tomada:s3cret@db/hub\n").unwrap();
        assert_eq!(url(&format!("file:{}", path.display())).unwrap(), "postgres://tomada:s3cret@db/hub");
        assert_eq!(url("mysql://root@db/hub").unwrap(), "mysql://root@db/hub");
        assert!(url("file:/no/such/file").unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn a_running_hub_keeps_its_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(alone(folder.path()).unwrap().is_none());
        let held = std::fs::File::create(folder.path().join("hub.lock")).unwrap();
        held.try_lock().unwrap();
        assert!(alone(folder.path()).unwrap_err().to_string().contains("stop it first"));
        drop(held);
        assert!(alone(folder.path()).unwrap().is_some());
    }
}
