//! Redis with `appendfsync always`, for context, where it is installed: a fixed window as its clients write it, on one hot key.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use testbed::Server;

const SCRIPT: &str = "local n = redis.call('INCR', KEYS[1]) \
     if n == 1 then redis.call('PEXPIRE', KEYS[1], 60000) end \
     return n";

/// A private Redis that ends with this.
pub struct Redis {
    process: Child,
    socket: PathBuf,
    clients: u32,
    requests_per_second: f64,
}

impl Redis {
    /// Starts one, if there is one to start.
    pub fn start(server: &Server, clients: u32) -> Option<Redis> {
        let installed = |program: &str| {
            let mut command = Command::new(program);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if !["redis-server", "redis-benchmark", "setpriv"].into_iter().all(installed) {
            return None;
        }
        // What is only there for context must not end the benchmark.
        Redis::new(server, clients).inspect_err(|error| eprintln!("==> no Redis: {error:#}")).ok()
    }

    /// Beside the server's data, on the same disk.
    fn new(server: &Server, clients: u32) -> Result<Redis> {
        let socket = PathBuf::from(server.host()).join("redis.sock");
        // It must end with us, however we end.
        let process = Command::new("setpriv")
            .args(["--pdeathsig=KILL", "redis-server", "--port", "0", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(server.host())
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run redis-server")?;
        let mut redis = Redis { process, socket, clients, requests_per_second: 1_000.0 };
        for _ in 0..100 {
            if redis.socket.exists() {
                // Also to know how many requests take a second.
                redis.run(1)?;
                return Ok(redis);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("redis-server does not start")
    }

    /// Requests a second, over about so many seconds.
    pub fn run(&mut self, seconds: u32) -> Result<f64> {
        let requests = (self.requests_per_second * f64::from(seconds)).ceil();
        let output = Command::new("redis-benchmark")
            .arg("-s")
            .arg(&self.socket)
            .args(["-c", &self.clients.to_string(), "-n", &requests.to_string(), "--csv"])
            .args(["EVAL", SCRIPT, "1", "user:1"])
            .output()
            .context("cannot run redis-benchmark")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "redis-benchmark failed:\n{text}");
        self.requests_per_second = requests_of(&text)
            .with_context(|| format!("no requests per second in what it printed:\n{text}"))?;
        Ok(self.requests_per_second)
    }
}

/// What the last line says after the name of the test, which may hold commas: `"name","rps",...`, from Redis 6.2 on with latencies.
fn requests_of(csv: &str) -> Option<f64> {
    let mut fields = csv.lines().last()?.split("\",\"").skip(1);
    fields.find_map(|field| field.trim_matches('"').parse().ok())
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::requests_of;

    #[test]
    fn requests_per_second_follow_the_name() {
        let header = "\"test\",\"rps\",\"avg_latency_ms\"\n";
        let line = "\"EVAL a, b 1 user:1\",\"9589.10\",\"0.751\"\n";
        assert_eq!(requests_of(&format!("{header}{line}")), Some(9589.10));
        assert_eq!(requests_of("\"EVAL\",\"2068.00\"\n"), Some(2068.00));
        assert_eq!(requests_of("nothing"), None);
    }
}
