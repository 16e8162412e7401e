//! PostgreSQL 15 writing the rows of a committed decision, in one function and one transaction.
//!
//! The server is found, or installed from the distribution's packages where that is possible; it
//! runs in a directory of its own with its default settings (`fsync` and `synchronous_commit` on),
//! and `pgbench` calls the function over its socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Where Debian and its relatives keep the server's programs.
const INSTALLED: &str = "/usr/lib/postgresql";

/// A server, stopped when dropped.
pub struct Postgres {
    programs: PathBuf,
    dir: TempDir,
    /// PostgreSQL refuses to run as root.
    user: Option<&'static str>,
}

impl Postgres {
    /// Starts a server on this disk; why not, if that is impossible.
    pub fn start() -> Result<Self, String> {
        let programs = programs().or_else(install).ok_or(
            "it is not installed and could not be: install PostgreSQL's server and pgbench",
        )?;
        let dir = tempfile::tempdir_in("/var/tmp").map_err(|error| error.to_string())?;
        let root =
            fs::metadata(dir.path()).is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        let user = root.then_some("postgres");
        let server = Self { programs, dir, user };
        if let Some(user) = user {
            done(Command::new("chown").arg(user).arg(server.dir.path()).output())?;
        }
        let data = server.path("data");
        server.run("initdb", &["-D", &data, "--auth", "trust", "-U", "postgres"])?;
        let options = format!("-k {} -c listen_addresses=''", server.dir.path().display());
        let log = server.path("log");
        server.run("pg_ctl", &["-D", &data, "-l", &log, "-o", &options, "-w", "start"])?;
        Ok(server)
    }

    /// Makes the tables and the function, for so many devices; each call stores an event and an
    /// answer of these sizes and counts one slot of one device.
    pub fn prepare(&self, devices: usize, event: usize, answer: usize) -> Result<(), String> {
        let schema = format!(
            "CREATE TABLE devices (device int PRIMARY KEY, revision bigint, slots int);
             CREATE TABLE events (sequence bigserial PRIMARY KEY, id uuid UNIQUE, device int,
               revision bigint, data text, UNIQUE (device, revision));
             CREATE TABLE answers (key uuid PRIMARY KEY, body text);
             INSERT INTO devices SELECT n, 0, 0 FROM generate_series(1, {devices}) n;
             CREATE FUNCTION decide(asked int) RETURNS boolean LANGUAGE plpgsql AS $$
             DECLARE held int; at bigint;
             BEGIN
               SELECT slots, revision INTO held, at FROM devices WHERE device = asked FOR UPDATE;
               IF held >= 1000000 THEN RETURN false; END IF;
               INSERT INTO events (id, device, revision, data)
                 VALUES (gen_random_uuid(), asked, at + 1, repeat('e', {event}));
               INSERT INTO answers VALUES (gen_random_uuid(), repeat('a', {answer}));
               UPDATE devices SET slots = held + 1, revision = at + 1 WHERE device = asked;
               RETURN true;
             END $$;"
        );
        self.run("psql", &["-h", &self.path(""), "-U", "postgres", "-q", "-c", &schema])?;
        let script = format!("\\set device random(1, {devices})\nSELECT decide(:device);\n");
        fs::write(self.dir.path().join("call.sql"), script).map_err(|error| error.to_string())
    }

    /// Calls a second with so many connections, over so many seconds.
    pub fn measure(&self, connections: usize, seconds: u32) -> Result<f64, String> {
        let (connections, seconds) = (connections.to_string(), seconds.to_string());
        let (socket, script) = (self.path(""), self.path("call.sql"));
        let threads = connections.parse::<usize>().unwrap().min(super::report::cores()).to_string();
        let said = self.run(
            "pgbench",
            &[
                "-h",
                &socket,
                "-U",
                "postgres",
                "-n",
                "-M",
                "prepared",
                "-f",
                &script,
                "-c",
                &connections,
                "-j",
                &threads,
                "-T",
                &seconds,
                "postgres",
            ],
        )?;
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|rest| rest.split(' ').next()).and_then(|text| text.parse().ok());
        rate.ok_or_else(|| format!("pgbench said: {said}"))
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let program = self.programs.join(program);
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        done(command.current_dir(self.dir.path()).args(args).output())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.path("data");
        let _ = self.run("pg_ctl", &["-D", &data, "-m", "immediate", "stop"]);
    }
}

/// What a program said, if it succeeded.
fn done(output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The newest server installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(INSTALLED).ok()?.filter_map(Result::ok);
    let programs = versions.map(|version| version.path().join("bin"));
    programs.filter(|dir| complete(dir)).max()
}

fn complete(dir: &Path) -> bool {
    ["initdb", "pg_ctl", "psql", "pgbench"].iter().all(|program| dir.join(program).exists())
}

fn install() -> Option<PathBuf> {
    let apt = |args: &[&str]| {
        Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").output()
    };
    done(apt(&["update", "-qq"])).ok()?;
    done(apt(&["install", "-qq", "-y", "postgresql"])).ok()?;
    programs()
}
