//! A hub as a child process: started on a data directory of its own, watched through `/proc`, stopped in order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::client::{Client, Running, admin_key};

/// Longest wait for a hub that starts: components may have to be compiled.
const START: Duration = Duration::from_secs(120);
/// Longest wait for a hub that was asked to stop; then it is killed.
const STOP: Duration = Duration::from_secs(30);

/// A child that is killed when this is dropped.
#[derive(Debug)]
pub struct Hub {
    pub url: String,
    pub pid: u32,
    data: PathBuf,
    child: Child,
}

impl Hub {
    /// Runs `exe serve` and waits until it says where it listens. Its database is the one of the URL, or the directory's own.
    ///
    /// # Errors
    /// It ended, or it said nothing for two minutes; with the end of its log, which is `data/hub.log`.
    pub async fn serve(exe: &Path, data: &Path, database: Option<&str>, listen: &str, config: &Path) -> Result<Hub> {
        let (data_option, config_option) = (data.as_os_str(), config.as_os_str());
        // Its `/proc` is where usage is read.
        let args = [
            "serve".as_ref(),
            "--debuggable".as_ref(),
            "--data".as_ref(),
            data_option,
            "--listen".as_ref(),
            listen.as_ref(),
        ];
        let mut command = Command::new(exe);
        command.args(args.into_iter().chain(["--config".as_ref(), config_option]));
        // What the environment says is about another hub.
        command.env("TOMADA_DATABASE", database.unwrap_or_default()).env("TOMADA_REDIS", "");
        Hub::spawn(command, data).await
    }

    /// As [`Hub::serve`] for any command that says in `data/hub.json` where it listens.
    pub(crate) async fn spawn(mut command: Command, data: &Path) -> Result<Hub> {
        std::fs::create_dir_all(data).with_context(|| format!("{} cannot be made", data.display()))?;
        let log = File::create(data.join("hub.log")).context("the hub's log cannot be written")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for us: the child is stopped in order, not twice.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", command.as_std().get_program().display()))?;
        let pid = child.id().context("the hub ended at once")?;
        let give_up = Instant::now() + START;
        let url = loop {
            // The file of an earlier hub on the same directory names another process.
            if let Some(running) = Running::read(data).ok().filter(|running| running.pid == pid) {
                break running.url;
            }
            if let Some(status) = child.try_wait()? {
                bail!("the hub did not start ({status}):\n{}", tail(data));
            }
            if Instant::now() > give_up {
                bail!("the hub did not start within {} s:\n{}", START.as_secs(), tail(data));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Ok(Hub { url, pid, data: data.to_owned(), child })
    }

    /// A connection that may use the API.
    ///
    /// # Errors
    /// The hub is gone.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.url, Some(&admin_key(&self.data)?)).await
    }

    /// The end of what it logged.
    pub fn log(&self) -> String {
        tail(&self.data)
    }

    /// Whether it runs still.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It ended with an error, or had to be killed after 30 s.
    pub async fn stop(mut self) -> Result<()> {
        if self.is_alive() {
            let pid = rustix::process::Pid::from_raw(self.pid as i32).context("the hub has no process id")?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("the hub cannot be stopped")?;
        }
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!("the hub ended with {status}:\n{}", self.log());
                }
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("the hub did not stop within {} s and was killed:\n{}", STOP.as_secs(), self.log())
            }
        }
    }
}

/// What a process has used so far. Children are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// User and system time, seconds, to the hundredth.
    pub(crate) cpu_s: f64,
    /// Page faults that read nothing from disk: the price of fresh memory.
    pub(crate) minor_faults: u64,
    /// Bytes that were sent to the disk, the database's journal included.
    pub(crate) written: u64,
    /// Resident memory now and at most, MiB.
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
}

impl Usage {
    /// None where the system has no `/proc`, or the process is not ours to look at.
    pub(crate) fn of(pid: u32) -> Option<Usage> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        Usage::parse(&read("stat")?, &read("status")?, &read("io").unwrap_or_default())
    }

    /// proc(5): `stat` from the third field on is split by blanks, the second is a name in brackets.
    fn parse(stat: &str, status: &str, io: &str) -> Option<Usage> {
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let line = |text: &str, name: &str| -> Option<u64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.trim_end_matches("kB").trim().parse().ok()
        };
        // USER_HZ is 100 on every Linux that this runs on.
        let ticks = number(11)? + number(12)?;
        Some(Usage {
            cpu_s: ticks as f64 / 100.0,
            minor_faults: number(7)?,
            written: line(io, "write_bytes:").unwrap_or(0),
            resident_mib: line(status, "VmRSS:")? as f64 / 1024.0,
            peak_mib: line(status, "VmHWM:")? as f64 / 1024.0,
        })
    }
}

fn tail(data: &Path) -> String {
    let log = std::fs::read(data.join("hub.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log[log.len().saturating_sub(16 << 10)..]).into_owned();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "4711 (to) mada) S 1 4711 4711 0 -1 4194560 1234 0 5 0 250 150 0 0 20 0 9 0 99 1000 200 18446744073709551615";
        let status = "Name:\ttomada\nVmHWM:\t   81920 kB\nVmRSS:\t   40960 kB\n";
        let usage = Usage::parse(stat, status, "rchar: 1\nwrite_bytes: 4096\n").unwrap();
        let expected = Usage { cpu_s: 4.0, minor_faults: 1234, written: 4096, resident_mib: 40.0, peak_mib: 80.0 };
        assert_eq!(usage, expected);
        assert_eq!(Usage::parse("", status, ""), None);
    }

    #[tokio::test]
    async fn a_hub_that_ends_at_once_says_why() {
        let data = std::env::temp_dir().join(format!("tomada-hub-{}", std::process::id()));
        let mut script = Command::new("/bin/sh");
        script.args(["-c", "echo no database here >&2; exit 3"]);
        let error = Hub::spawn(script, &data).await.unwrap_err().to_string();
        std::fs::remove_dir_all(&data).unwrap();
        assert!(error.contains("no database here") && error.contains('3'), "{error}");
    }
}
