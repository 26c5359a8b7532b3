//! A look at a Redis from outside, for `tomada doctor`.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::AsyncConnectionConfig;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks a Redis about itself: what INFO says of server and memory, by the names there.
///
/// # Errors
/// In words; none repeats the URL, which may hold a password.
pub(crate) async fn probe(url: &str) -> Result<BTreeMap<String, String>, &'static str> {
    let client = redis::Client::open(url).map_err(|_| "the URL has to be redis://:PASSWORD@HOST:PORT/NUMBER")?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    let asked = async {
        let mut conn = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("INFO").query_async::<String>(&mut conn).await
    };
    match asked.await {
        Ok(text) => Ok(read(&text)),
        Err(error) if error.kind() == redis::ErrorKind::AuthenticationFailed => Err("refuses the user or the password"),
        Err(error) if error.is_timeout() => Err("does not answer in time"),
        Err(error) if error.is_io_error() => Err("cannot be reached"),
        Err(_) => Err("does not answer as Redis does"),
    }
}

fn read(info: &str) -> BTreeMap<String, String> {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_its_names() {
        let info = read("# Server\r\nredis_version:7.0.15\r\n\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n");
        assert_eq!(info["redis_version"], "7.0.15");
        assert_eq!(info["maxmemory_policy"], "noeviction");
        assert_eq!(info.len(), 2);
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_without_the_password() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = probe(&format!("redis://:s3cret@{free}/0")).await.unwrap_err();
        assert_eq!(error, "cannot be reached");
        let error = probe("s3cret").await.unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
