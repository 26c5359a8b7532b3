//! A database that somebody needs for a while, on a server where others live.

use sqlx::{AssertSqlSafe, Executor as _};

use super::Result;
use super::probe::{Address, Link};

pub(crate) struct Scratch {
    server: Address,
    name: String,
    url: url::Url,
}

impl Scratch {
    /// Makes it on the server of a URL, whose user may make databases. `name` has lower-case letters, digits and `_`.
    ///
    /// # Errors
    /// The server cannot be reached or does not allow it, or there is such a database.
    pub(crate) async fn make(server: &str, name: String) -> anyhow::Result<Scratch> {
        debug_assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit()));
        let address = Address::of_url(server).map_err(anyhow::Error::msg)?;
        let mut url = url::Url::parse(server).map_err(|_| anyhow::anyhow!("the database's URL cannot be read"))?;
        url.set_path(&name);
        run(&address, format!("create database {name}")).await?;
        Ok(Scratch { server: address, name, url })
    }

    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Drops it, with whatever is in it.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub(crate) async fn remove(self) -> Result<()> {
        let force = if matches!(self.server, Address::Postgres(_)) { " with (force)" } else { "" };
        run(&self.server, format!("drop database {}{force}", self.name)).await
    }
}

async fn run(server: &Address, sql: String) -> Result<()> {
    let sql = AssertSqlSafe(sql);
    match server.connect().await? {
        Link::Sqlite(mut conn) => conn.execute(sql).await.map(drop)?,
        Link::Postgres(mut conn) => conn.execute(sql).await.map(drop)?,
        Link::MySql(mut conn) => conn.execute(sql).await.map(drop)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests;
