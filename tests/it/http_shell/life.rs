//! Start, stop, signals, TLS.

use super::*;

#[test]
fn a_taken_port_is_a_clear_error() {
    let first = start(&config());
    let mut second = config();
    second.listen = first.address();
    let shell = Shell::new(&second, Arc::new(registry().0), Arc::default(), Readiness::default());
    let refused = Server::start(&second, shell, routes).unwrap_err();
    assert!(matches!(refused, StartError::AddressInUse { .. }));
    assert!(refused.to_string().contains(&first.address().to_string()), "{refused}");
}

#[test]
fn stopping_finishes_what_was_accepted() {
    let service = start(&config());
    let address = service.address();
    let mut busy = connect(&service);
    busy.write_all(b"GET /slow/800 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut idle = connect(&service);
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    service.stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let answer = Answer::of(&read_to_close(&mut busy));
    assert_eq!((answer.status, answer.body.as_str()), (200, "slept"));
    assert_eq!(read_to_close(&mut idle), "");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn stopping_does_not_wait_longer_than_it_may() {
    let mut config = config();
    config.limits.shutdown_ms = 1_000;
    let service = start(&config);
    let mut busy = connect(&service);
    busy.write_all(b"GET /slow/9000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    service.stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[test]
fn a_signal_stops_a_process_after_it_finished_what_it_accepted() {
    for signal in ["-TERM", "-INT"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "http_shell::life::child_serves_until_signaled",
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| Some(line.unwrap().split_once("serving on ")?.1.to_owned()))
            .unwrap();
        let mut busy = TcpStream::connect(address).unwrap();
        busy.write_all(b"GET /slow/700 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(Answer::of(&read_to_close(&mut busy)).body, "slept", "{signal}");
        assert!(lines.any(|line| line.unwrap().contains("test result: ok")), "{signal}");
        assert!(child.wait().unwrap().success(), "{signal}");
    }
}

#[test]
#[ignore = "the child of the test above"]
fn child_serves_until_signaled() {
    let service = start(&config());
    service.stop_on_signals().unwrap();
    println!("serving on {}", service.address());
    service.wait().unwrap();
}

#[test]
fn serves_https_when_configured() {
    let mut config = config();
    config.tls.certificate = Some("tests/it/http_shell/certificate.pem".into());
    config.tls.key = Some("tests/it/http_shell/key.pem".into());
    let service = start(&config);
    assert!(service.url().starts_with("https://127.0.0.1:"));
    let mut stream = tls_client(connect(&service));
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(Answer::of(&text).status, 200);
    let mut silent = connect(&service);
    let since = Instant::now();
    assert_eq!(read_to_close(&mut silent), "");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}

fn tls_client(stream: TcpStream) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let pem = include_bytes!("certificate.pem");
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(client, stream)
}

#[test]
fn unusable_tls_files_are_named() {
    let mut config = config();
    config.tls.certificate = Some("tests/it/http_shell/certificate.pem".into());
    config.tls.key = Some("/nowhere/key.pem".into());
    let shell = Shell::new(&config, Arc::new(registry().0), Arc::default(), Readiness::default());
    let refused = Server::start(&config, shell, routes).unwrap_err().to_string();
    assert!(refused.contains("tls.key = /nowhere/key.pem"), "{refused}");
}
