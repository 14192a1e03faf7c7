//! A server that takes over the address of a running server, without a service manager.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use uproar::config::BackendName;

use crate::support::client_churn::ClientChurn;
use crate::support::metrics::http_get;
use crate::support::process::{Process, UPROAR, backend_arg, expect_start_failure, run_to_end, uproar};
use crate::support::wait_until;

/// Tests that run in a separate network namespace, where the test can change the kernel's settings.
mod inside {
    macro_rules! inside {
        ($($name:ident: $backend:ident),+) => {
            $(#[test]
            #[ignore = "needs its own network namespace; clients_are_served_while_a_server_is_replaced runs it"]
            fn $name() { super::clients_are_served_during_three_takeovers(uproar::config::BackendName::$backend); })+
        };
    }
    inside!(io_uring: IoUring, epoll: Epoll);
}

#[test]
fn clients_are_served_while_a_server_is_replaced() {
    let script = "ip link set lo up && echo 1 >/proc/sys/net/ipv4/tcp_migrate_req && exec \"$0\" \"$@\"";
    let own = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "sh", "-c", script]).arg(own);
    let output = run_to_end(command.args(["takeover::inside::", "--ignored", "--nocapture"]));
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(
        output.status.success(),
        "this test needs unshare(1), ip(8) and user namespaces: {stdout}{stderr}"
    );
    assert!(stdout.contains("2 passed"), "{stdout}");
}

fn clients_are_served_during_three_takeovers(backend: BackendName) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let mut server = start(backend, &path, "127.0.0.1:0", "127.0.0.1:0");
    let (address, admin) = (server.address, server.admin_address());
    assert!(!server.log().contains("tcp_migrate_req"), "{}", server.log());
    let churn = ClientChurn::start(address, 8);
    for _ in 0..3 {
        churn.wait_for_served(300);
        let next = start(backend, &path, &address.to_string(), &admin.to_string());
        assert_eq!((next.address, next.admin_address()), (address, admin));
        server.signal(Signal::SIGTERM);
        wait_until("only the new server answers", || http_get(admin, "/readyz").status == 200);
        UnixStream::connect(&path).expect("the new server listens on the path");
        assert_eq!(server.wait().code, Some(0));
        server = next;
    }
    churn.wait_for_served(300);
    // The kernel resets a few of the connections that arrive while a listener is being closed.
    let (served, reset) = churn.stop();
    println!("{served} clients served, {reset} reset");
    assert!(reset * 100 < served, "{reset} of {served} clients were reset");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code, Some(0));
}

fn start(backend: BackendName, path: &Path, address: &str, admin: &str) -> Process {
    let path = format!("unix:{}", path.display());
    let args = ["--app=echo", "--workers=2", "--takeover=on", "--drain-seconds=0.5", backend_arg(backend)];
    Process::run(uproar(&args).args(["--listen", address, "--listen", &path, "--admin", admin]))
}

/// Where `/proc/sys` is hidden, as by the project's systemd unit, the server cannot read the setting.
#[test]
fn the_log_recommends_tcp_migrate_req_where_the_setting_can_be_read() {
    for (hide, is_logged) in [("true", true), ("mount -t tmpfs none /proc/sys", false)] {
        let script = format!("ip link set lo up && {hide} && exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount", "sh", "-c", &script, UPROAR]);
        let server =
            Process::run(command.args(["--listen=127.0.0.1:0", "--takeover=on", "--drain-seconds=0"]));
        server.signal(Signal::SIGTERM);
        let log = server.wait().log;
        assert_eq!(log.contains("set net.ipv4.tcp_migrate_req to 1"), is_logged, "{log}");
    }
}

#[test]
fn without_the_option_an_address_in_use_is_refused() {
    let server = Process::run(&mut uproar(&["--listen=127.0.0.1:0", "--takeover=on"]));
    let address = server.address.to_string();
    expect_start_failure(
        &mut uproar(&["--listen", &address]),
        &[&address, "cannot listen on", "--takeover on"],
    );
}
