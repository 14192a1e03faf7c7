//! The `uproar` server.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;
use tracing_subscriber::EnvFilter;
use uproar::config::{AppName, Cli, Config};
use uproar::server::Server;

fn main() -> ExitCode {
    let config = match Cli::try_parse() {
        Ok(cli) => cli.into_config(),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&one_line(&error)),
    };
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => refuse(&line),
    }
}

fn run(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("--log {}: {error}; try info or uproar=debug", config.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|error| format!("cannot take signals: {error}"))?;
    let mut server = Server::start(config).map_err(|error| error.to_string())?;
    let stopper = server.stopper();
    let take_signals = move || {
        let mut seen = 0;
        for _ in &mut signals {
            seen += 1;
            if seen > 1 {
                std::process::exit(130);
            }
            stopper.stop();
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(take_signals);
    thread.map_err(|error| format!("cannot start a thread: {error}; is memory limited (ulimit -v)?"))?;
    announce(config, &server);
    server.join();
    let totals = server.totals();
    info!(?totals, "ended");
    Ok(())
}

/// Says where the server is to be found: the line that scripts wait for, and the one for people.
fn announce(config: &Config, server: &Server) {
    let app = format!("{:?}", config.app).to_lowercase();
    for address in server.addresses() {
        let _ = writeln!(
            std::io::stdout(),
            "listening on {address} (app {app}, backend {}, workers {})",
            server.backend(),
            server.workers()
        );
    }
    if let Some(address) = server.admin_address() {
        let _ = writeln!(std::io::stdout(), "admin on http://{address}/");
    }
    if let (AppName::Chat, Some(address)) = (config.app, server.addresses().first()) {
        let mut address = *address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        let _ = writeln!(std::io::stdout(), "open http://{address}/ in two windows to chat");
    }
}

/// What was wrong with the command line, and what would be right, as one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim);
    let line = lines.next().unwrap_or_default();
    let mut all = line.strip_prefix("error: ").unwrap_or(line).to_owned();
    for hint in lines.filter(|line| line.starts_with("[possible values: ") || line.starts_with("tip: ")) {
        all.extend(["; ", hint]);
    }
    all + "; uproar --help lists the options"
}

fn refuse(line: &str) -> ExitCode {
    eprintln!("uproar: {line}");
    ExitCode::from(2)
}
