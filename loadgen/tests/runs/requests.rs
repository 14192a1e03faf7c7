//! Runs of the scenario `requests` against a small HTTP server: a correct one, and one with a fault of choice.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::server::run;

/// The fault of the server in its seventh response on a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The body differs from the other bodies.
    Corrupt,
    /// The status is 503.
    Status,
    /// The connection ends inside the body.
    Cut,
    /// The connection ends instead of the response.
    Close,
    /// The response says that the connection ends after it.
    Announced,
}

fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An error means that the client has left.
            thread::spawn(move || drop(answer(stream, fault)));
        }
    });
    address
}

/// Answers the requests of one client in order.
fn answer(mut stream: TcpStream, fault: Fault) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        assert_eq!(line?, "GET /small?a=1 HTTP/1.1");
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        count += 1;
        let fault = if count == 7 { fault } else { Fault::None };
        let response = match fault {
            Fault::None => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            Fault::Corrupt => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellO",
            Fault::Status => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull",
            Fault::Cut => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
            Fault::Close => "",
            Fault::Announced => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        };
        stream.write_all(response.as_bytes())?;
        if matches!(fault, Fault::Cut | Fault::Close) {
            return Ok(());
        }
    }
    Ok(())
}

const ARGUMENTS: &str = "requests -c 4 --duration 300ms --warmup 0 --grace 300ms --threads 2 --quiet";

#[test]
fn responses_are_counted_and_timed() {
    for pipeline in [1, 5] {
        let url = format!("http://{}/small?a=1", serve(Fault::None));
        let name = format!("requests-{pipeline}");
        let (output, figures) = run(&url, &name, &format!("{ARGUMENTS} --pipeline {pipeline}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("responses"), "{text}");
        let messages = &figures["messages"];
        assert!(messages["sent"].as_u64() > Some(4), "{messages}");
        assert_eq!(messages["sent"], messages["received"]);
        let timed = figures["latency"]["count"].as_u64();
        assert!(timed > Some(0) && timed <= messages["received"].as_u64(), "{timed:?} of {messages}");
        // The four responses that open the connections are on the wire, but they are not messages of the run.
        assert_eq!(
            figures["wire"]["messages"].as_u64(),
            messages["received"].as_u64().map(|count| count + 4)
        );
    }
}

#[test]
fn a_faulty_response_fails_the_run_and_is_named() {
    for (fault, reason) in [
        (Fault::Corrupt, "4 corrupt"),
        (Fault::Status, "503 Service Unavailable: \"full\""),
        (Fault::Cut, "closed after 41 bytes of a response"),
        (Fault::Close, "ended the connection"),
        (Fault::Announced, "`Connection: close`"),
    ] {
        let url = format!("http://{}/small?a=1", serve(fault));
        let (output, figures) = run(&url, &format!("requests-{fault:?}"), ARGUMENTS);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{fault:?}: {text}");
        assert_eq!(figures["passed"], false, "{fault:?}");
        assert!(text.contains(reason), "{fault:?}: {text}");
    }
}

#[test]
fn a_websocket_url_is_refused_with_the_right_scheme() {
    let (output, _) = run("ws://127.0.0.1:1/", "requests-scheme", ARGUMENTS);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("write http:// instead of ws://"), "{text}");
}
