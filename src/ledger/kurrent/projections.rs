//! The projections that the cluster runs for its own users: put there, and looked at.
//!
//! Nothing of the ledger depends on them. The calls go through the official client, each with a time
//! of ours, as its reads do ([`node`](super::node)).

use std::time::Duration;

use eventstore::{
    CreateProjectionOptions, Credentials, GenericProjectionOptions, ProjectionClient,
    ReadStreamOptions, StreamPosition, UpdateProjectionOptions,
};
use serde::Deserialize;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::{KurrentError, Options, settings};

/// Manages the projections of one cluster.
pub struct Projections {
    manage: ProjectionClient,
    reader: eventstore::Client,
    credentials: Option<Credentials>,
}

/// What the cluster has under the name of a projection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// Its script.
    #[serde(default)]
    pub query: String,
    /// Whether it is to run.
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    deleting: bool,
}

/// How a projection does.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// In the cluster's words: `Running`, `Stopped`, `Faulted …`.
    pub status: String,
    /// Why it is so, if the cluster says; of a fault, what the script threw.
    pub reason: String,
    /// How much of the log it has been through, in percent.
    pub progress: f32,
    /// How far that is.
    pub position: String,
    /// Events handled since the leader last started it.
    pub handled: i64,
}

/// Why projections cannot be managed. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionsError {
    /// The nodes were started without them.
    #[error("the cluster runs no projections; start its nodes with RunProjections=All")]
    Off,
    /// The user is not one who may.
    #[error(
        "the user may not manage projections; kurrentdb.credentials_file has to name one of the \
         group $admins"
    )]
    Denied,
    /// No answer came.
    #[error("the cluster did not answer within {} seconds; try again", PATIENCE.as_secs())]
    Silent,
    /// The cluster said no, for example because the script does not compile.
    #[error("the cluster refused")]
    Refused(#[source] Box<eventstore::Error>),
    /// The cluster has something else than a definition there.
    #[error("the definition of {name} in the cluster cannot be read")]
    Unreadable {
        /// The projection.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Projections {
    /// Connects to the leader, which is the one that runs projections. Has to be called, and used, on
    /// one runtime.
    pub async fn connect(options: Options) -> Result<Self, KurrentError> {
        let cluster = Cluster::new(settings(options)?);
        let node = cluster.node().await?;
        let (reader, credentials) = node.client();
        Ok(Self { manage: ProjectionClient::from(reader.clone()), reader, credentials })
    }

    /// What is there under this name; `None`: nothing.
    ///
    /// The management protocol does not tell the script, so it is read from where the cluster stores
    /// it.
    pub async fn definition(&self, name: &str) -> Result<Option<Definition>, ProjectionsError> {
        let options = ReadStreamOptions::default().position(StreamPosition::End).backwards();
        let mut options = options.max_count(LATEST).requires_leader(true);
        if let Some(credentials) = &self.credentials {
            options = options.authenticated(credentials.clone());
        }
        let stored = in_time(async {
            let mut events =
                self.reader.read_stream(format!("$projections-{name}"), &options).await?;
            while let Some(event) = events.next().await? {
                let event = event.get_original_event();
                if event.event_type == UPDATED {
                    return Ok(Some(event.data.clone()));
                }
            }
            Ok(None)
        });
        let Some(stored) = there(stored.await)?.flatten() else { return Ok(None) };
        let definition: Definition = serde_json::from_slice(&stored)
            .map_err(|source| ProjectionsError::Unreadable { name: name.to_owned(), source })?;
        Ok((!definition.deleted && !definition.deleting).then_some(definition))
    }

    /// Creates a projection, which begins to run.
    pub async fn create(&self, name: &str, query: &str) -> Result<(), ProjectionsError> {
        let mut options = CreateProjectionOptions::default().requires_leader(true);
        if let Some(credentials) = &self.credentials {
            options = options.authenticated(credentials.clone());
        }
        in_time(self.manage.create(name, query.to_owned(), &options)).await
    }

    /// Changes the script. What was counted so far stays, and the script goes on from there.
    pub async fn update(&self, name: &str, query: &str) -> Result<(), ProjectionsError> {
        let mut options = UpdateProjectionOptions::default().requires_leader(true);
        if let Some(credentials) = &self.credentials {
            options = options.authenticated(credentials.clone());
        }
        in_time(self.manage.update(name, query.to_owned(), &options)).await
    }

    /// Lets a projection run that was stopped.
    pub async fn enable(&self, name: &str) -> Result<(), ProjectionsError> {
        in_time(self.manage.enable(name, &self.plain())).await
    }

    /// How a projection does; `None`: there is none of this name.
    pub async fn standing(&self, name: &str) -> Result<Option<Standing>, ProjectionsError> {
        let status = there(in_time(self.manage.get_status(name, &self.plain())).await)?.flatten();
        Ok(status.map(|status| Standing {
            status: status.status,
            reason: status.state_reason,
            progress: status.progress,
            position: status.position,
            handled: status.events_processed_after_restart,
        }))
    }

    fn plain(&self) -> GenericProjectionOptions {
        let options = GenericProjectionOptions::default().requires_leader(true);
        match &self.credentials {
            Some(credentials) => options.authenticated(credentials.clone()),
            None => options,
        }
    }
}

async fn in_time<T>(
    call: impl Future<Output = eventstore::Result<T>>,
) -> Result<T, ProjectionsError> {
    match timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(eventstore::Error::AccessDenied)) => Err(ProjectionsError::Denied),
        Ok(Err(eventstore::Error::UnsupportedFeature)) => Err(ProjectionsError::Off),
        Ok(Err(error)) => Err(ProjectionsError::Refused(Box::new(error))),
        Err(_) => Err(ProjectionsError::Silent),
    }
}

/// `None` for what is not there.
fn there<T>(answer: Result<T, ProjectionsError>) -> Result<Option<T>, ProjectionsError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ProjectionsError::Refused(error))
            if matches!(*error, eventstore::Error::ResourceNotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The event that holds a definition, and how many of its stream may come after it.
const UPDATED: &str = "$ProjectionUpdated";
const LATEST: usize = 10;
/// Time for each call. A script is compiled before the answer comes.
const PATIENCE: Duration = Duration::from_secs(10);
