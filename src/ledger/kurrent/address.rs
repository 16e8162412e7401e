//! Where a cluster is: `kurrentdb://one:2113,two:2113,three:2113?tlsCaFile=/etc/ca.pem`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a cluster is, and whether the way there is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Nodes to ask, at least one.
    pub(super) hosts: Vec<Host>,
    /// Whether the nodes named are asked who leads; else the one that is named is talked to.
    pub(super) discover: bool,
    /// Whether TLS is spoken.
    pub(super) tls: bool,
    /// PEM file of the certificates that the nodes may be known by; `None`: those of the system.
    pub(super) ca: Option<PathBuf>,
}

/// Where one node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host {
    /// Name or address; an IPv6 address in brackets.
    pub(super) name: String,
    pub(super) port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Why a text is not the address of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It does not begin as one does.
    #[error("it must begin with kurrentdb:// or kurrentdb+discover://")]
    Scheme,
    /// It holds a name or password, which would end up in process lists.
    #[error(
        "it must hold no credentials: put them into the file that kurrentdb.credentials_file names"
    )]
    Credentials,
    /// A node is out of form.
    #[error("`{0}` is no host, or host and port")]
    Host(String),
    /// There is a path behind the nodes.
    #[error("nothing may stand between the hosts and the `?`")]
    Path,
    /// A parameter is not known here.
    #[error("the parameter `{0}` is none of tls=true, tls=false and tlsCaFile=PATH")]
    Parameter(String),
}

impl Address {
    /// Whether a configured ledger is one of these, and no directory.
    pub fn is_meant_by(text: &str) -> bool {
        text.contains("://")
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidAddress::Scheme)?;
        let discover = match scheme {
            "kurrentdb" | "esdb" => false,
            "kurrentdb+discover" | "esdb+discover" => true,
            _ => return Err(InvalidAddress::Scheme),
        };
        let (hosts, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if hosts.contains('@') {
            return Err(InvalidAddress::Credentials);
        }
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        if hosts.contains('/') {
            return Err(InvalidAddress::Path);
        }
        let hosts: Vec<_> = hosts.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let discover = discover || hosts.len() > 1;
        let mut address = Self { hosts, discover, tls: true, ca: None };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("tls", "true")) => address.tls = true,
                Some(("tls", "false")) => address.tls = false,
                Some(("tlsCaFile", path)) if !path.is_empty() => address.ca = Some(path.into()),
                _ => return Err(InvalidAddress::Parameter(parameter.to_owned())),
            }
        }
        Ok(address)
    }
}

impl FromStr for Host {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress::Host(text.to_owned());
        let after_address = text.rfind(']').map_or(0, |end| end + 1);
        let (name, port) = match text.get(after_address..).and_then(|rest| rest.rfind(':')) {
            Some(colon) => {
                let (name, port) = text.split_at(after_address + colon);
                (name, port.get(1..).unwrap_or_default().parse().map_err(|_| invalid())?)
            }
            None => (text, DEFAULT_PORT),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        let bracketed = name.starts_with('[') == name.ends_with(']');
        if name.is_empty() || !name.chars().all(known) || !bracketed {
            return Err(invalid());
        }
        Ok(Self { name: name.to_owned(), port })
    }
}

const DEFAULT_PORT: u16 = 2113;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), port }
    }

    #[test]
    fn accepts_one_node_and_several() {
        let one: Address = "kurrentdb://db.example?tls=false".parse().unwrap();
        let hosts = vec![host("db.example", 2113)];
        assert_eq!(one, Address { hosts, discover: false, tls: false, ca: None });
        let all: Address = "esdb://10.0.0.1:1,[::1]:2,c/?tlsCaFile=/etc/ca.pem".parse().unwrap();
        let hosts = vec![host("10.0.0.1", 1), host("[::1]", 2), host("c", 2113)];
        assert_eq!(
            all,
            Address { hosts, discover: true, tls: true, ca: Some("/etc/ca.pem".into()) }
        );
        assert!("kurrentdb+discover://one".parse::<Address>().unwrap().discover);
    }

    #[test]
    fn refuses_what_it_would_not_heed() {
        for (text, why) in [
            ("/var/lib/ledger", InvalidAddress::Scheme),
            ("http://one", InvalidAddress::Scheme),
            ("kurrentdb://admin:changeit@one", InvalidAddress::Credentials),
            ("kurrentdb://", InvalidAddress::Host(String::new())),
            ("kurrentdb://one:x", InvalidAddress::Host("one:x".to_owned())),
            ("kurrentdb://one,", InvalidAddress::Host(String::new())),
            ("kurrentdb://one/two", InvalidAddress::Path),
            (
                "kurrentdb://one?tlsVerifyCert=false",
                InvalidAddress::Parameter("tlsVerifyCert=false".to_owned()),
            ),
        ] {
            assert_eq!(text.parse::<Address>(), Err(why), "{text}");
        }
    }
}
