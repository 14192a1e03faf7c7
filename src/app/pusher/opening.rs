//! The beginning of a connection: `/app/KEY?protocol=7`.

use super::super::{Answer, HttpRequest, Status, Upgrade};
use super::apps::{Admission, Table};
use super::problem::{self, Problem};
use crate::config::Origin;

/// The versions of the protocol that the server speaks.
const VERSIONS: std::ops::RangeInclusive<u32> = 5..=7;

/// The decision about a new client, on which [`App::on_open`](super::App::on_open) acts.
#[derive(Debug)]
pub(super) enum Entrance {
    Admitted(Admission),
    /// The client gets the problem as an event and as a close code. Before the upgrade it could read neither.
    Refused(Problem),
}

/// Answers a request for `/app/KEY`.
pub(super) fn answer(table: &Table, request: &HttpRequest<'_>) -> Answer {
    if !request.is_upgrade() {
        // The server tells the client that it must upgrade.
        return Upgrade::default().into();
    }
    let key = request.path().strip_prefix("/app/").unwrap_or_default();
    let origin = request.headers("Origin").next();
    match enter(table, key, request.query(), origin) {
        Ok(entrance) => Upgrade::default().with_value(entrance).into(),
        Err(full) => full,
    }
}

/// Returns the answer before the upgrade for an application with too many connections: clients then try again after
/// 15 seconds, while they come back faster from any close code.
fn enter(table: &Table, key: &str, query: Option<&str>, origin: Option<&[u8]>) -> Result<Entrance, Answer> {
    let refused = |problem| Ok(Entrance::Refused(problem));
    if key.is_empty() || key.contains('/') {
        return refused(problem::NO_PATH);
    }
    if let Err(problem) = check_version(query) {
        return refused(problem);
    }
    let Some((index, app)) = table.by_key(key) else { return refused(problem::NO_APP) };
    if !app.is_enabled {
        return refused(problem::DISABLED);
    }
    if let Some(origin) = origin
        && !app.origins.is_empty()
        && !Origin::is_in(&app.origins, origin)
    {
        return refused(problem::ORIGIN);
    }
    match table.admit(index) {
        Some(admission) => Ok(Entrance::Admitted(admission)),
        None => {
            let reason = "The application has reached its connection limit; try again later.";
            Err(Answer::refuse(Status::ServiceUnavailable, reason))
        }
    }
}

/// Checks the parameter `protocol` of a query.
fn check_version(query: Option<&str>) -> Result<(), Problem> {
    let mut parameters = query.unwrap_or_default().split('&');
    let version = parameters.find_map(|parameter| parameter.strip_prefix("protocol="));
    match version.map(str::parse::<u32>) {
        Some(Ok(version)) if VERSIONS.contains(&version) => Ok(()),
        Some(Ok(_)) => Err(problem::OTHER_VERSION),
        Some(Err(_)) => Err(problem::BAD_VERSION),
        None => Err(problem::NO_VERSION),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PusherApp, PusherApps};
    use super::*;

    fn code(key: &str, query: &str, origin: Option<&str>) -> u16 {
        let disabled = PusherApp { is_enabled: false, ..PusherApp::new("2", "off", "s") };
        let origins = vec!["https://a.example".parse().expect("an origin")];
        let strict = PusherApp { origins, ..PusherApp::new("3", "strict", "s") };
        let full = PusherApp { max_connections: 1, ..PusherApp::new("4", "full", "s") };
        let apps = vec![PusherApp::new("1", "key", "s"), disabled, strict, full];
        let table = PusherApps::new(apps).expect("applications").table();
        let _first = table.admit(3);
        match enter(&table, key, Some(query).filter(|query| !query.is_empty()), origin.map(str::as_bytes)) {
            Ok(Entrance::Admitted(_)) => 0,
            Ok(Entrance::Refused(problem)) => problem.code,
            Err(_) => 503,
        }
    }

    #[test]
    fn clients_are_admitted_or_hear_the_code_of_the_protocol() {
        for (key, query, origin, expected) in [
            ("key", "protocol=7&client=js&version=8.4.0&flash=false", None, 0),
            ("key", "client=Pysher&version=1.0&protocol=6", Some("https://any.example"), 0),
            ("key", "protocol=5", None, 0),
            ("key", "", None, 4008),
            ("key", "client=js", None, 4008),
            ("key", "protocol=", None, 4006),
            ("key", "protocol=seven", None, 4006),
            ("key", "protocol=4", None, 4007),
            ("key", "protocol=8", None, 4007),
            ("none", "protocol=7", None, 4001),
            ("off", "protocol=7", None, 4003),
            ("", "protocol=7", None, 4005),
            ("key/more", "protocol=7", None, 4005),
            ("strict", "protocol=7", Some("https://a.example"), 0),
            ("strict", "protocol=7", Some("https://b.example"), 4009),
            ("strict", "protocol=7", None, 0),
            ("full", "protocol=7", None, 503),
        ] {
            assert_eq!(code(key, query, origin), expected, "{key}?{query} from {origin:?}");
        }
    }
}
