//! A strict reader of the Prometheus text format: each metric's help and type must come before its series.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::raw::{RawClient, Response};

/// A parsed response of the admin listener's `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Type of each metric (such as `counter`), by the metric's name.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) series: Vec<Series>,
}

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Requests `path` from the admin listener and returns the response.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Response {
    let mut raw = RawClient::connect(address);
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    raw.receive_response()
}

impl Metrics {
    /// Fetches and parses the current metrics from the admin listener at `address`.
    pub(crate) fn fetch(address: SocketAddr) -> Self {
        let response = http_get(address, "/metrics");
        assert_eq!(response.status, 200, "{response:?}");
        assert!(response.head.contains("Content-Type: text/plain; version=0.0.4"), "{}", response.head);
        Self::parse(&response.body)
    }

    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no line feed");
        let (mut types, mut series, mut metric) = (BTreeMap::new(), Vec::<Series>::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect(line);
                assert!(words.ends_with('.'), "help that is not a sentence: {line}");
                metric = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect(line);
                assert_eq!(metric, name, "a metric's help must come before its type");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has two types");
            } else {
                let one = Series::parse(line);
                assert_eq!(metric, one.metric(&types), "a series must follow its metric's type");
                assert!(
                    !series.iter().any(|other| (&other.name, &other.labels) == (&one.name, &one.labels)),
                    "a series appears twice: {line}"
                );
                series.push(one);
            }
        }
        Self { types, series }
    }

    /// Returns the sum of all series with this name and these labels. Panics when no series matches.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |series: &&Series| {
            series.name == name
                && labels
                    .iter()
                    .all(|(label, value)| series.labels.get(*label).is_some_and(|own| own == value))
        };
        let found: Vec<f64> = self.series.iter().filter(matches).map(|series| series.value).collect();
        assert!(!found.is_empty(), "no series {name}{labels:?}");
        found.iter().sum()
    }
}

impl Series {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').expect(line)),
            None => (series, ""),
        };
        let label = |pair: &str| {
            let (name, value) = pair.split_once('=').expect(line);
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(line);
            (name.to_owned(), value.to_owned())
        };
        let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(label).collect();
        Self { name: name.to_owned(), labels, value: value.parse().expect(line) }
    }

    /// Returns the name of the series' metric. In a histogram, the series' own name has an additional suffix.
    fn metric<'a>(&'a self, types: &BTreeMap<String, String>) -> &'a str {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let name = self.name.strip_suffix(suffix)?;
            (types.get(name)? == "histogram").then_some(name)
        });
        histogram.unwrap_or(&self.name)
    }
}
