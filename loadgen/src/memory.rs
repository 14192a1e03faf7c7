//! Memory of idle connections in the server, the load generator and the kernel.

use std::fs;

use serde::Serialize;

use crate::procfs::{Memory, Server, field_kib, memory};

/// A sample of all memory that connections may use, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    server: Memory,
    generator: Memory,
    slab: u64,
    socket_buffers: u64,
}

/// Memory per connection, in bytes: the difference between two samples, divided by the number of connections.
#[derive(Debug, Serialize)]
pub(crate) struct PerConnection {
    /// Resident memory of the server's processes, in bytes per connection.
    pub(crate) server_rss: f64,
    pub(crate) server_pss: f64,
    pub(crate) server_private: f64,
    /// Private memory of the load generator's processes, in bytes per connection.
    pub(crate) generator_private: f64,
    /// Kernel objects (slab) for both ends of a connection, in bytes.
    pub(crate) kernel_slab_both_ends: f64,
    /// Kernel objects (slab) for the generator's end of a connection, in bytes. `None` if /proc/slabinfo is not
    /// readable.
    pub(crate) kernel_slab_generator: Option<f64>,
    /// Kernel objects (slab) for the server's end of a connection, in bytes. `None` if /proc/slabinfo is not readable.
    pub(crate) kernel_slab_server: Option<f64>,
    /// Kernel pages that count as TCP buffers, for both ends of a connection, in bytes.
    pub(crate) kernel_socket_buffers: f64,
}

impl Snapshot {
    pub(crate) fn take(server: Option<&Server>, generator: Memory) -> Self {
        Self {
            server: server.map_or_else(Memory::default, Server::memory),
            generator: memory("self").plus(generator),
            slab: field_kib("/proc/meminfo", "Slab:").unwrap_or(0),
            socket_buffers: socket_buffers().unwrap_or(0),
        }
    }

    /// Returns the memory per connection that was added since the sample `before`.
    pub(crate) fn per_connection(&self, before: &Self, connections: usize) -> PerConnection {
        let each = |after: u64, before: u64| (after as f64 - before as f64) / connections as f64;
        let slab = each(self.slab, before.slab);
        let own = own_kernel_bytes().map(|bytes| bytes as f64);
        PerConnection {
            server_rss: each(self.server.rss, before.server.rss),
            server_pss: each(self.server.pss, before.server.pss),
            server_private: each(self.server.private, before.server.private),
            generator_private: each(self.generator.private, before.generator.private),
            kernel_slab_both_ends: slab,
            kernel_slab_generator: own,
            kernel_slab_server: own.map(|own| slab - own),
            kernel_socket_buffers: each(self.socket_buffers, before.socket_buffers),
        }
    }
}

/// Returns the memory of all TCP buffers, in bytes. /proc/net/sockstat counts this memory in pages.
fn socket_buffers() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find(|line| line.starts_with("TCP:"))?;
    let pages: u64 = line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Returns the size of a client's kernel objects, in bytes: TCP socket, inode, file, directory entry and epoll entry.
fn own_kernel_bytes() -> Option<u64> {
    const CACHES: [&str; 7] =
        ["TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "lsm_inode_cache", "lsm_file_cache"];
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    let size = |line: &str| {
        let mut words = line.split_whitespace();
        let is_ours = CACHES.contains(&words.next()?);
        words.nth(2).filter(|_| is_ours)?.parse::<u64>().ok()
    };
    Some(text.lines().filter_map(size).sum())
}
