//! A real `redis-server` of a test's own, in a temporary directory, gone with the test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use crate::env::Env;
use crate::store::Engine;
use crate::store::OpenError;
use crate::store::RedisConfig;
use crate::store::StoreConfig;
use crate::store::Warning;
use crate::store::contract::eventually;
use crate::store::contract::identity;

/// Where the program is looked for; set to `1`, tests fail instead of being skipped when there is none.
const REQUIRE: &str = "DYNAMOMINI_REQUIRE_REDIS";

pub(super) struct TestServer {
    child: Child,
    args: Vec<String>,
    pub(super) dir: tempfile::TempDir,
}

impl TestServer {
    /// A server on a unix socket, without persistence, and with these further arguments. `None` when there is no
    /// `redis-server` on this machine; the test is then to return.
    pub(super) async fn start(args: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "redis-server is not installed, and {REQUIRE}=1");
            eprintln!("########## SKIPPED: redis-server is not installed ({REQUIRE}=1 makes this an error) ##########");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = Self { child: launch(&dir, &args), args, dir };
        server.await_answer().await;
        Some(server)
    }

    /// Ends the process at once, as a crash would.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again in the same directory.
    pub(super) async fn restart(&mut self) {
        self.child = launch(&self.dir, &self.args);
        self.await_answer().await;
    }

    /// Sends a command over a connection of its own.
    pub(super) async fn say(&self, words: &str) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("unix://{}", self.socket().display()))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut cmd = redis::Cmd::new();
        cmd.arg(words.split(' ').collect::<Vec<_>>());
        cmd.query_async(&mut connection).await
    }

    pub(super) fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("unix://{}", self.socket().display()), self.dir.path().join("node/memo"))
    }

    pub(super) async fn open(&self) -> Engine {
        open(&self.config()).await.unwrap().0
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn await_answer(&mut self) {
        let asks = async || match self.say("PING").await {
            Ok(_) => true,
            // A server that wants a password is up as well.
            Err(error) => error.code() == Some("NOAUTH"),
        };
        eventually("redis-server answers", asks).await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Opens as node `n1`.
pub(super) async fn open(config: &RedisConfig) -> Result<(Engine, Vec<Warning>), OpenError> {
    Engine::open(&StoreConfig::Redis(config.clone()), &identity("n1"), &Env::real()).await
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn launch(dir: &tempfile::TempDir, args: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.current_dir(dir.path()).args(["--unixsocket", "socket", "--save", "", "--appendonly", "no"]);
    if !args.iter().any(|arg| arg.ends_with("port")) {
        command.args(["--port", "0"]);
    }
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
