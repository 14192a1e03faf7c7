//! The HTTP API for backends: lists of rooms, members and kept messages.

use serde_json::{Value, json};
use uproar::config::{AppName, BackendName};

use crate::api::{
    ADMIN, BYTES, JSON, Marking, PUBLISH, READ, TEXT, call, join, publish, receive, request, settings,
};
use crate::support::TestServer;
use crate::support::client::Client;
use crate::support::raw::RawClient;

on_both_backends!(
    rooms_are_listed_in_pages_over_all_shards,
    a_room_shows_its_members_and_its_place,
    kept_messages_are_read_in_pages,
    lists_of_many_rooms_delay_no_message,
    a_wrong_parameter_of_a_list_has_its_error,
);

fn read(server: &TestServer, path: &str) -> Value {
    let answer = call(server.address(), "GET", path, READ, &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Reads all pages of a list. Returns the entries of its member `name`.
fn read_all(server: &TestServer, path: &str, name: &str) -> Vec<Value> {
    let (mut entries, mut page) = (Vec::new(), read(server, path));
    loop {
        entries.extend(page[name].as_array().expect("a list").iter().cloned());
        let next = match &page["next"] {
            Value::Null => return entries,
            Value::String(next) => next.clone(),
            next => next.to_string(),
        };
        page = read(server, &format!("{path}&after={}", next.replace(' ', "+")));
    }
}

fn rooms_are_listed_in_pages_over_all_shards(backend: BackendName) {
    for workers in [1, 2] {
        let server = TestServer::start(&settings(backend, AppName::Relay, workers));
        assert_eq!(read(&server, "/api/rooms"), json!({"rooms": [], "next": null}));
        let mut clients = Vec::new();
        let mut expected = Vec::new();
        for number in 0..30 {
            let room = format!("{} {number:02}", ["a", "b", "c"][number % 3]);
            let members = 1 + number % 4;
            let path = room.replace(' ', "%20");
            clients.extend((0..members).map(|_| join(&server, &path)));
            expected.push(json!({"room": room, "members": members}));
        }
        expected.sort_by_key(|room| room["room"].as_str().expect("a name").to_owned());
        for limit in [1, 7, 30, 1_000] {
            assert_eq!(read_all(&server, &format!("/api/rooms?limit={limit}"), "rooms"), expected, "{limit}");
        }
        let some = read_all(&server, "/api/rooms?limit=3&prefix=b+", "rooms");
        assert_eq!(some, expected[10..20]);
        assert_eq!(read(&server, "/api/rooms?prefix=d"), json!({"rooms": [], "next": null}));
    }
}

fn a_room_shows_its_members_and_its_place(backend: BackendName) {
    for workers in [1, 2] {
        let server = TestServer::start(&settings(backend, AppName::Chat, workers));
        let nothing = json!({"room": "café", "members": 0, "epoch": null, "last": null, "kept": 0});
        assert_eq!(read(&server, "/api/rooms/cafe%CC%81"), nothing);
        let nobody = json!({"room": "garden", "count": 0, "members": [], "next": null});
        assert_eq!(read(&server, "/api/rooms/garden/members"), nobody);
        let mut clients: Vec<_> = (0..7)
            .map(|number| {
                let mut client = Client::open(server.address(), "/room/garden");
                client.receive_text();
                client.send_text(&format!("/nick user{number}"));
                while !client.receive_text().ends_with(&format!("is now user{number}")) {}
                client
            })
            .collect();
        let published = publish(&server, "/api/rooms/garden/messages", TEXT, b"x").body;
        let room = read(&server, "/api/rooms/garden");
        assert_eq!((&room["members"], &room["last"]), (&json!(7), &published["number"]));
        assert_eq!((&room["epoch"], &room["kept"]), (&published["epoch"], &json!(8)));
        for limit in [1, 3, 7, 100] {
            let members = read_all(&server, &format!("/api/rooms/garden/members?limit={limit}"), "members");
            let mut names: Vec<_> = members.iter().map(|one| one["name"].as_str().expect("a name")).collect();
            names.sort_unstable();
            assert_eq!(names, (0..7).map(|number| format!("user{number}")).collect::<Vec<_>>());
        }
        // The lists of the API and those of the application do not meet.
        clients[0].send_text("/who");
        while !clients[0].receive_text().starts_with("* in garden") {}
    }
}

fn kept_messages_are_read_in_pages(backend: BackendName) {
    for workers in [1, 2] {
        let server =
            TestServer::start_app(&settings(backend, AppName::Relay, workers), |_| Box::new(Marking));
        let nothing = json!({"room": "a", "epoch": null, "messages": [], "next": null});
        assert_eq!(read(&server, "/api/rooms/a/messages"), nothing);
        for number in 0..8 {
            publish(&server, "/api/rooms/a/messages?as=x", TEXT, format!("grüße {number}").as_bytes());
        }
        publish(&server, "/api/rooms/a/messages", BYTES, &[0, 255]);
        for limit in [1, 2, 5, 1_000] {
            let messages = read_all(&server, &format!("/api/rooms/a/messages?limit={limit}"), "messages");
            // The application keeps five messages.
            let numbers: Vec<_> =
                messages.iter().map(|one| one["number"].as_u64().expect("a number")).collect();
            assert_eq!(numbers, [4, 5, 6, 7, 8]);
            assert_eq!(
                (&messages[0]["text"], &messages[4]["binary"]),
                (&json!("x|grüße 4"), &json!("bm9ib2R5fAD/"))
            );
            assert!(
                messages.iter().all(|one| one["age"].as_u64().is_some_and(|age| age < 60)),
                "{messages:?}"
            );
        }
        let rest = read(&server, "/api/rooms/a/messages?after=6");
        assert_eq!(rest["messages"].as_array().expect("a list").len(), 2);
        assert_eq!(read(&server, "/api/rooms/a/messages?after=100")["messages"], json!([]));
        assert_eq!(read(&server, "/api/rooms")["rooms"], json!([{"room": "a", "members": 0}]));
    }
}

fn lists_of_many_rooms_delay_no_message(backend: BackendName) {
    let mut settings = settings(backend, AppName::Relay, 2);
    settings.max_rooms_per_connection = 100_000;
    let server = TestServer::start_app(&settings, |_| Box::new(Marking));
    let rooms: Vec<String> = (0..5_000).map(|number| format!("room{number:04}")).collect();
    for rooms in rooms.chunks(100) {
        let body = json!({"rooms": rooms, "text": "x"}).to_string();
        assert_eq!(publish(&server, "/api/messages", JSON, body.as_bytes()).status, 200);
    }
    // Many lists at a time wait for each other, and all of them are whole.
    let mut raws: Vec<_> = (0..20).map(|_| RawClient::connect(server.address())).collect();
    for raw in &mut raws {
        raw.send(&request("GET", "/api/rooms?prefix=room1&limit=1000", READ, &[], b""));
    }
    publish(&server, "/api/rooms/other/messages", TEXT, b"between");
    for raw in &mut raws {
        let body = receive(raw).body;
        let found: Vec<_> =
            body["rooms"].as_array().expect("a list").iter().map(|one| one["room"].clone()).collect();
        assert_eq!(
            (found.as_slice(), &body["next"]),
            (&rooms[1_000..2_000].iter().map(|room| json!(room)).collect::<Vec<_>>()[..], &Value::Null)
        );
    }
}

fn a_wrong_parameter_of_a_list_has_its_error(backend: BackendName) {
    let server = TestServer::start(&settings(backend, AppName::Relay, 2));
    for query in ["limit=0", "limit=1001", "limit=x", "limit=", "limit=-1", "limit=1&limit=2", "page=2"] {
        for path in ["/api/rooms", "/api/rooms/a/members", "/api/rooms/a/messages"] {
            let answer = call(server.address(), "GET", &format!("{path}?{query}"), READ, &[], b"");
            assert_eq!((answer.status, answer.code()), (400, "parameter"), "{path} {query}");
        }
    }
    for path in ["/api/rooms/a?x=1", "/api/rooms/a/members?after=1", "/api/rooms/a/messages?after=-1"] {
        let answer = call(server.address(), "GET", path, READ, &[], b"");
        assert_eq!((answer.status, answer.code()), (400, "parameter"), "{path}");
    }
    for path in ["/api/rooms", "/api/rooms/a", "/api/rooms/a/members", "/api/rooms/a/messages"] {
        let answer = call(server.address(), "GET", path, PUBLISH, &[], b"");
        assert_eq!((answer.status, answer.code()), (403, "scope"), "{path}");
        let answer = call(server.address(), "PUT", path, ADMIN, &[], b"");
        assert_eq!((answer.status, answer.code()), (405, "method"), "{path}");
        assert!(answer.head.contains("\r\nAllow: GET, HEAD"), "{}", answer.head);
        let mut raw = RawClient::connect(server.address());
        raw.send(&request("HEAD", path, READ, &["Connection: close"], b""));
        let response = raw.receive_response();
        assert_eq!((response.status, &*response.body), (200, ""), "{path}");
    }
}
