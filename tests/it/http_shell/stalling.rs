//! Clients that stall, flood or never end.

use super::*;

#[test]
fn hangs_up_on_a_dripping_head() {
    let service = start(&config());
    let mut stream = connect(&service);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    let took = drip(&mut stream, b"x");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(read_to_close(&mut stream), "");
}

#[test]
fn hangs_up_on_a_connection_that_says_nothing() {
    let service = start(&config());
    let since = Instant::now();
    assert_eq!(read_to_close(&mut connect(&service)), "");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[test]
fn hangs_up_on_a_dripping_head_of_a_later_request_too() {
    let service = start(&config());
    let mut stream = connect(&service);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut piece = [0; 4096];
    let count = stream.read(&mut piece).unwrap();
    assert_eq!(Answer::of(std::str::from_utf8(&piece[..count]).unwrap()).status, 200);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    let took = drip(&mut stream, b"x");
    assert!((200..5_000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn keeps_a_busy_connection_and_closes_an_idle_one() {
    let service = start(&config());
    let mut stream = connect(&service);
    let mut piece = [0; 4096];
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(b"GET /slow/250 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let count = stream.read(&mut piece).unwrap();
        assert_eq!(Answer::of(std::str::from_utf8(&piece[..count]).unwrap()).status, 200);
    }
    let idle_since = Instant::now();
    assert_eq!(stream.read(&mut piece).unwrap(), 0);
    assert!(idle_since.elapsed() < Duration::from_secs(3), "{:?}", idle_since.elapsed());
}

#[test]
fn answers_pipelined_requests_in_order() {
    let service = start(&config());
    let first = "GET /slow/100 HTTP/1.1\r\nHost: x\r\n\r\n";
    let second = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut stream = connect(&service);
    stream.write_all(format!("{first}{second}").as_bytes()).unwrap();
    let text = read_to_close(&mut stream);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert!(text.find("slept") < text.find("\"status\""), "{text}");
}

#[test]
fn refuses_a_dripping_body() {
    let service = start(&config());
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut stream = connect(&service);
        let head = format!("POST /length HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let byte: &[u8] = if framing.contains("chunked") { b"1\r\nx\r\n" } else { b"x" };
        let took = drip(&mut stream, byte);
        assert!((300..5_000).contains(&took.as_millis()), "{framing}: {took:?}");
        let answer = Answer::of(&read_to_close(&mut stream));
        assert_eq!((answer.status, answer.code().as_str()), (408, "body-too-slow"), "{framing}");
    }
}

#[test]
fn refuses_a_body_below_the_minimum_rate_long_before_the_timeout() {
    let mut config = config();
    config.limits.body_timeout_ms = 14_000;
    let service = start(&config);
    let mut stream = connect(&service);
    stream.write_all(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n").unwrap();
    let took = drip(&mut stream, b"x");
    assert!((1_800..8_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(Answer::of(&read_to_close(&mut stream)).code(), "body-too-slow");
}

#[test]
fn takes_a_body_up_to_the_limit_and_no_byte_more() {
    let service = start(&config());
    let fits = "x".repeat(65_536);
    assert_eq!(post(&service, "/length", "", &fits).body, "65536");
    let refused = post(&service, "/length", "", &format!("{fits}x"));
    assert_eq!((refused.status, refused.code().as_str()), (413, "body-too-large"));
    assert_eq!(refused.header("connection"), Some("close"));
}

#[test]
fn counts_a_chunked_body_too() {
    let service = start(&config());
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let head = "POST /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let fits = exchange(&service, &format!("{head}{}0\r\n\r\n", chunk.repeat(16)));
    assert_eq!((fits.status, fits.body.as_str()), (200, "65536"));
    let mut stream = connect(&service);
    stream.write_all(format!("{head}{}", chunk.repeat(17)).as_bytes()).unwrap();
    // The body has no end, and the answer comes all the same.
    assert_eq!(Answer::of(&read_to_close(&mut stream)).code(), "body-too-large");
}

#[test]
fn refuses_a_body_that_breaks_off() {
    let service = start(&config());
    let mut stream = connect(&service);
    stream.write_all(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(Answer::of(&read_to_close(&mut stream)).code(), "invalid-request");
}

#[test]
fn hangs_up_on_a_client_that_takes_nothing_of_its_answer() {
    let service = start(&config());
    let mut stream = connect(&service);
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(2_000));
    let taken = read_to_close(&mut stream).len();
    assert!(taken < LARGE, "{taken} bytes were still delivered");
    assert!(get(&service, "/large", "").body.len() == LARGE);
}

#[test]
fn waits_for_a_client_that_takes_its_answer_slowly() {
    let service = start(&config());
    let mut stream = connect(&service);
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut piece = vec![0; 4 << 20];
    let mut taken = 0;
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(150));
        stream.read_exact(&mut piece).unwrap();
        taken += piece.len();
    }
    assert!(taken + read_to_close(&mut stream).len() > LARGE);
}

#[test]
fn answers_503_beyond_the_places_in_flight_and_probes_all_the_same() {
    let mut config = config();
    config.limits.in_flight = 1;
    let service = start(&config);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| get(&service, "/slow/1500", ""));
        std::thread::sleep(Duration::from_millis(300));
        let refused = get(&service, "/slow/0", "");
        assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(get(&service, "/healthz", "").status, 200);
        assert_eq!(get(&service, "/readyz", "").status, 200);
        assert_eq!(busy.join().unwrap().status, 200);
    });
    assert_eq!(get(&service, "/slow/0", "").status, 200);
}

#[test]
fn gives_up_on_an_answer_that_takes_too_long() {
    let mut config = config();
    config.limits.request_timeout_ms = 100;
    let service = start(&config);
    let answer = get(&service, "/slow/5000", "");
    assert_eq!((answer.status, answer.code().as_str()), (503, "timed-out"));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn a_connection_too_many_waits_until_another_is_gone() {
    let mut config = config();
    config.limits.workers = 1;
    config.limits.connections = 1;
    let service = start(&config);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| get(&service, "/slow/700", ""));
        std::thread::sleep(Duration::from_millis(200));
        let since = Instant::now();
        assert_eq!(get(&service, "/healthz", "").status, 200);
        assert!(since.elapsed() > Duration::from_millis(300), "{:?}", since.elapsed());
        assert_eq!(busy.join().unwrap().status, 200);
    });
}
