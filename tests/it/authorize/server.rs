//! A server of the service's own: answers as a test says, and remembers what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Answer {
    Body(u16, Vec<u8>),
    /// Status 302 to this place.
    Redirect(String),
    /// Status 429: not before so many seconds.
    Later(u64),
    /// Hangs up without a word.
    Nothing,
    /// Says nothing until the client gives up.
    Silence,
}

impl Answer {
    pub fn json(value: &serde_json::Value) -> Self {
        Self::Body(200, value.to_string().into_bytes())
    }
}

/// What answers are written to, in the clear or not.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

type Respond = dyn Fn(usize, &Asked) -> Answer + Send + Sync;

/// Serves on a free port until it is dropped.
pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Answers the `n`th request, from 0, with `respond(n, request)`.
    pub fn start(respond: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with("http", respond, |stream| Box::new(stream))
    }

    /// The same over TLS, with the certificate that the tests of the HTTP shell have.
    pub fn secure(respond: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let pem = include_bytes!("../http_shell/certificate.pem");
        let chain = CertificateDer::pem_slice_iter(pem).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../http_shell/key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(chain, key).unwrap());
        Self::start_with("https", respond, move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            Box::new(StreamOwned::new(connection, stream))
        })
    }

    fn start_with(
        scheme: &str,
        respond: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Box<dyn Stream> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/answer", listener.local_addr().unwrap());
        let server = Self { url, asked: Arc::default(), stopped: Arc::default() };
        let (asked, stopped) = (Arc::clone(&server.asked), Arc::clone(&server.stopped));
        let respond: Arc<Respond> = Arc::new(respond);
        let wrap = Arc::new(wrap);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (asked, respond) = (Arc::clone(&asked), Arc::clone(&respond));
                let wrap = Arc::clone(&wrap);
                std::thread::spawn(move || serve(wrap(connection.unwrap()), &asked, &*respond));
            }
        });
        server
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    /// From here on nobody listens.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let (_, address) = self.url.split_once("://").unwrap();
        let _ = TcpStream::connect(address.trim_end_matches("/answer"));
    }
}

fn serve(connection: Box<dyn Stream>, asked: &Mutex<Vec<Asked>>, respond: &Respond) {
    let mut reader = BufReader::new(connection);
    let Some(request) = read(&mut reader) else { return };
    let number = {
        let mut asked = asked.lock().unwrap();
        asked.push(request.clone());
        asked.len() - 1
    };
    let mut connection = reader.into_inner();
    let (status, header, body) = match respond(number, &request) {
        Answer::Body(status, body) => (status, String::new(), body),
        Answer::Redirect(to) => (302, format!("location: {to}\r\n"), Vec::new()),
        Answer::Later(seconds) => (429, format!("retry-after: {seconds}\r\n"), Vec::new()),
        Answer::Nothing => return,
        Answer::Silence => {
            let _ = connection.read(&mut [0; 1]);
            return;
        }
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Answer\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    // A client that does not like the head hangs up before the body.
    let _ = connection
        .write_all(head.as_bytes())
        .and_then(|()| connection.write_all(&body))
        .and_then(|()| connection.flush());
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let method = line.split(' ').next()?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text: &String| text.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { method, headers, body })
}
