//! A node in front of the server: passes calls on, and misbehaves as nodes of a cluster do.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::client;
use tonic::codec::ProstCodec;
use tonic::metadata::MetadataMap;
use tonic::server;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::{Service, ServiceExt, service_fn};

use crate::kurrent_protocol::features::SupportedMethods;
use crate::kurrent_protocol::streams::{Count, ReadReq, ReadResp, ReadRespContent};
use crate::kurrent_protocol::{exception, header, method};

/// How it behaves from now on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// As the server.
    Plain,
    /// It is of a version that cannot append to several streams.
    Old,
    /// Another node leads.
    Follower(SocketAddr),
    /// Subscriptions bring so many events and are then ended in order, at once if it is none.
    Ending(usize),
    /// Subscriptions bring nothing, and go on.
    Silent,
}

/// The node.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    counts: Arc<Counts>,
    end: watch::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    calls: AtomicUsize,
    subscriptions: AtomicUsize,
}

impl Front {
    pub(super) async fn start(server: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Endpoint::from_shared(format!("http://{server}")).unwrap().connect_lazy();
        let (manner, counts) = (Arc::new(Mutex::new(manner)), Arc::new(Counts::default()));
        let (of_calls, counting) = (Arc::clone(&manner), Arc::clone(&counts));
        let (end, ended) = watch::channel(());
        let calls = service_fn(move |request| {
            let node = Node {
                server: channel.clone(),
                manner: *of_calls.lock().unwrap(),
                counts: Arc::clone(&counting),
                ended: ended.clone(),
            };
            async move { Ok::<_, std::convert::Infallible>(node.answer(request).await) }
        });
        let connections = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let task = tokio::spawn(async move {
            Server::builder().serve_with_incoming(calls, Box::pin(connections)).await.unwrap();
        });
        Self { address, manner, counts, end, task }
    }

    /// Ends the subscriptions that there are, in order.
    pub(super) fn end_subscriptions(&self) {
        self.end.send_replace(());
    }

    pub(super) fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Calls so far, apart from those that ask what it can do.
    pub(super) fn calls(&self) -> usize {
        self.counts.calls.load(Ordering::SeqCst)
    }

    /// Subscriptions so far.
    pub(super) fn subscriptions(&self) -> usize {
        self.counts.subscriptions.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a call meets.
struct Node {
    server: Channel,
    manner: Manner,
    counts: Arc<Counts>,
    ended: watch::Receiver<()>,
}

impl Node {
    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path();
        if path == method::SUPPORTED_METHODS {
            return match self.manner {
                Manner::Old => old_methods(request).await,
                _ => pass(self.server, request).await,
            };
        }
        self.counts.calls.fetch_add(1, Ordering::SeqCst);
        match self.manner {
            Manner::Follower(leader) => not_leader(leader).into_http(),
            _ if path == method::READ => self.read(request).await,
            _ => pass(self.server, request).await,
        }
    }

    async fn read(self, request: http::Request<Body>) -> http::Response<Body> {
        let Self { server, manner, counts, ended } = self;
        let answer = |request: Request<ReadReq>| {
            let options = request.get_ref().options.as_ref();
            let count = options.and_then(|options| options.count.as_ref());
            let subscribes = matches!(count, Some(Count::Subscription(_)));
            if subscribes {
                counts.subscriptions.fetch_add(1, Ordering::SeqCst);
            }
            let (server, mut ended) = (server.clone(), ended.clone());
            async move {
                let mut grpc = client::Grpc::new(server);
                grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                let path = http::uri::PathAndQuery::from_static(method::READ);
                let codec = ProstCodec::<ReadReq, ReadResp>::default();
                let messages = grpc.server_streaming(request, path, codec).await?.into_inner();
                if !subscribes {
                    return Ok(Response::new(Box::pin(messages) as Messages));
                }
                ended.mark_unchanged();
                let end = async move { drop(ended.changed().await) };
                let messages = messages.take_until(Box::pin(end));
                Ok(Response::new(match manner {
                    Manner::Ending(0) => Box::pin(messages.take(1)),
                    Manner::Ending(events) => Box::pin(ending(messages, events)),
                    Manner::Silent => Box::pin(messages.take(1).chain(stream::pending())),
                    _ => Box::pin(messages) as Messages,
                }))
            }
        };
        let mut grpc = server::Grpc::new(ProstCodec::<ReadResp, ReadReq>::default());
        grpc.server_streaming(service_fn(answer), request).await
    }
}

async fn pass(mut channel: Channel, request: http::Request<Body>) -> http::Response<Body> {
    match channel.ready().await {
        Ok(ready) => match ready.call(request).await {
            Ok(response) => response,
            Err(error) => Status::unavailable(error.to_string()).into_http(),
        },
        Err(error) => Status::unavailable(error.to_string()).into_http(),
    }
}

async fn old_methods(request: http::Request<Body>) -> http::Response<Body> {
    let methods =
        SupportedMethods { methods: Vec::new(), event_store_server_version: "25.1.0".to_owned() };
    let answer = move |_: Request<()>| {
        let methods = methods.clone();
        async move { Ok::<_, Status>(Response::new(methods)) }
    };
    let mut grpc = server::Grpc::new(ProstCodec::<SupportedMethods, ()>::default());
    grpc.unary(service_fn(answer), request).await
}

fn not_leader(leader: SocketAddr) -> Status {
    let mut trailers = MetadataMap::new();
    trailers.insert(header::EXCEPTION, exception::NOT_LEADER.parse().unwrap());
    trailers.insert(header::LEADER_HOST, leader.ip().to_string().parse().unwrap());
    trailers.insert(header::LEADER_PORT, leader.port().to_string().parse().unwrap());
    Status::with_metadata(tonic::Code::NotFound, "this node does not lead", trailers)
}

type Messages = Pin<Box<dyn Stream<Item = Result<ReadResp, Status>> + Send>>;

/// Ends in order after so many events.
fn ending(
    messages: impl Stream<Item = Result<ReadResp, Status>> + Send,
    events: usize,
) -> impl Stream<Item = Result<ReadResp, Status>> + Send {
    let mut seen = 0;
    messages.take_while(move |message| {
        let content = message.as_ref().ok().and_then(|message| message.content.as_ref());
        let is_event = matches!(content, Some(ReadRespContent::Event(_)));
        seen += usize::from(is_event);
        std::future::ready(seen <= events)
    })
}
