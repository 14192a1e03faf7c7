//! The limit program on io_uring: multishot accepts into direct descriptors, multishot receives with a buffer ring, and
//! one `io_uring_enter` per turn that submits all sends and waits. The documentation of the `limit` library lists the
//! parts of a server that the program lacks.

#![expect(unsafe_code, reason = "the kernel reads and writes memory that requests point to")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use limit::{Input, Room};
use nix::libc;
use peer::{App, Arguments, listen, raise_descriptor_limit};

const SUBMISSIONS: u32 = 4096;
const BUFFERS: u16 = 1024;
const BUFFER_LEN: usize = 16 * 1024;
const GROUP: u16 = 0;
const PAGE: usize = 4096;
/// Number of checks for further completions in a turn, before the program sends.
const SWEEPS: u32 = 16;

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let slots = raise_descriptor_limit()?;
    let listener = listen(arguments.listen)?;
    listener.set_nonblocking(false)?;
    let mut server = Server::new(arguments.app, listener, slots as u32)?;
    loop {
        server.turn()?;
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Accept,
    Receive,
    Send,
    Shutdown,
    Close,
}

struct Server {
    app: App,
    ring: IoUring,
    buffers: Buffers,
    listener: TcpListener,
    accepting: bool,
    /// The connected clients, indexed by direct descriptor.
    clients: Vec<Option<Client>>,
    room: Room,
    /// Frames from clients that are appended to the room at the end of the turn.
    gathered: Vec<u8>,
}

#[derive(Default)]
struct Client {
    input: Input,
    /// Bytes for this client alone that wait for the next send.
    own: Vec<u8>,
    /// Bytes for this client alone in the current send.
    own_sending: Vec<u8>,
    /// Number of the bytes of `own_sending` that are sent.
    own_sent: usize,
    /// The client's position in the room: the next byte of the room to be sent.
    position: u64,
    receiving: bool,
    sending: bool,
    ended: bool,
    /// A shutdown of the socket was requested.
    shut: bool,
    /// The shutdown of the socket has completed.
    shut_done: bool,
}

impl Server {
    fn new(app: App, listener: TcpListener, slots: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(4 * SUBMISSIONS)
            .build(SUBMISSIONS)?;
        ring.submitter().register_files_sparse(slots)?;
        let buffers = Buffers::new(&ring)?;
        let room = Room::default();
        Ok(Self {
            app,
            ring,
            buffers,
            listener,
            accepting: false,
            clients: Vec::new(),
            room,
            gathered: Vec::new(),
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        if !self.accepting {
            self.accepting = true;
            let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd())).allocate_file_index(true);
            self.push(accept.build(), Operation::Accept, 0);
        }
        passable(self.ring.submit_and_wait(1))?;
        self.complete_all();
        if !self.gathered.is_empty() {
            // The wait ends with the first completions, such as those of the last turn's sends, although more messages
            // have arrived. All arrived messages should leave together: otherwise 500 clients that all send cost five
            // times as much.
            for _ in 0..SWEEPS {
                // Checks for completions without a wait. A wait of zero time would start a timer.
                passable(self.ring.submit())?;
                self.complete_all();
            }
            self.room.append(&self.gathered);
            self.gathered.clear();
            for slot in 0..self.clients.len() {
                self.send(slot);
            }
        }
        Ok(())
    }

    fn complete_all(&mut self) {
        let completions: Vec<cqueue::Entry> = self.ring.completion().collect();
        for completion in &completions {
            self.complete(completion);
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) {
        let result = completion.result();
        let last = !cqueue::more(completion.flags());
        let slot = (completion.user_data() >> 8) as usize;
        match completion.user_data() as u8 {
            operation if operation == Operation::Accept as u8 => self.accepted(result, last),
            operation if operation == Operation::Receive as u8 => {
                self.received(slot, result, last, cqueue::buffer_select(completion.flags()));
            }
            operation if operation == Operation::Send as u8 => self.sent(slot, result),
            operation if operation == Operation::Shutdown as u8 => self.shut(slot),
            _ => {}
        }
    }

    fn accepted(&mut self, result: i32, last: bool) {
        self.accepting &= !last;
        let Ok(slot) = usize::try_from(result) else { return eprintln!("cannot accept: error {}", -result) };
        if self.clients.len() <= slot {
            self.clients.resize_with(slot + 1, || None);
        }
        self.clients[slot] = Some(Client::default());
        self.receive(slot);
    }

    fn receive(&mut self, slot: usize) {
        if let Some(client) = &mut self.clients[slot] {
            client.receiving = true;
            let receive = opcode::RecvMulti::new(Fixed(slot as u32), GROUP);
            self.push(receive.build(), Operation::Receive, slot);
        }
    }

    fn received(&mut self, slot: usize, result: i32, last: bool, buffer: Option<u16>) {
        let Some(client) = &mut self.clients[slot] else { return };
        if let Some(id) = buffer {
            if !client.ended {
                let was_open = client.input.is_open;
                let bytes = self.buffers.bytes(id, result.max(0) as usize);
                let received = client.input.receive(bytes, self.app, &mut client.own, &mut self.gathered);
                client.ended = received.is_err();
                if client.input.is_open && !was_open {
                    client.position = self.room.head();
                }
            }
            self.buffers.give(id);
        }
        client.receiving = !last;
        let is_over = result <= 0 && result != -libc::ENOBUFS;
        client.ended |= is_over;
        if last && !client.ended {
            self.receive(slot);
        }
        self.send(slot);
    }

    fn sent(&mut self, slot: usize, result: i32) {
        let Some(client) = &mut self.clients[slot] else { return };
        client.sending = false;
        match u64::try_from(result) {
            Ok(count) if client.own_sent < client.own_sending.len() => client.own_sent += count as usize,
            Ok(count) => client.position += count,
            Err(_) => {
                client.ended = true;
                client.own.clear();
                client.own_sent = client.own_sending.len();
            }
        }
        self.send(slot);
    }

    /// Sends the pending bytes of a client, unless a send is in flight. Ends a closed client when all bytes are sent.
    fn send(&mut self, slot: usize) {
        let Some(client) = &mut self.clients[slot] else { return };
        if client.sending {
            return;
        }
        if client.own_sent == client.own_sending.len() {
            client.own_sending.clear();
            client.own_sent = 0;
            std::mem::swap(&mut client.own, &mut client.own_sending);
        }
        let mut bytes = &client.own_sending[client.own_sent..];
        if bytes.is_empty() && client.input.is_open && !client.ended {
            bytes = self.room.since(client.position).unwrap_or(&[]);
            client.ended = bytes.is_empty() && client.position != self.room.head();
        }
        if !bytes.is_empty() {
            client.sending = true;
            let send = opcode::Send::new(Fixed(slot as u32), bytes.as_ptr(), bytes.len() as u32);
            let entry = send.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
            self.push(entry, Operation::Send, slot);
        } else if client.ended {
            self.end(slot);
        }
    }

    fn shut(&mut self, slot: usize) {
        let Some(client) = &mut self.clients[slot] else { return };
        client.shut_done = true;
        self.send(slot);
    }

    /// Closes a client's direct descriptor when no operation on the descriptor is in flight. Otherwise a later
    /// operation, such as a shutdown, would hit the next connection in that slot.
    fn end(&mut self, slot: usize) {
        let Some(client) = &mut self.clients[slot] else { return };
        if !client.receiving && client.shut == client.shut_done {
            self.clients[slot] = None;
            self.push(opcode::Close::new(Fixed(slot as u32)).build(), Operation::Close, slot);
        } else if !client.shut {
            client.shut = true;
            let shutdown = opcode::Shutdown::new(Fixed(slot as u32), libc::SHUT_RDWR).build();
            self.push(shutdown, Operation::Shutdown, slot);
        }
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation, slot: usize) {
        let entry = entry.user_data((slot as u64) << 8 | operation as u64);
        loop {
            // SAFETY: sends read `own_sending`, which is not touched before their completion, or the room, whose
            // memory is never freed. Both belong to clients or the server, which outlive the ring's operations:
            // a client is dropped when nothing of it is under way, the server never.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.ring.submit().expect("a ring takes requests while completions have room");
        }
    }
}

fn passable(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::ETIME)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// The ring of receive buffers from which the kernel picks.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: Box<[u8]>,
    tail: u16,
}

impl Buffers {
    fn new(ring: &IoUring) -> io::Result<Self> {
        let layout = Layout::array::<BufRingEntry>(BUFFERS.into())
            .and_then(|layout| layout.align_to(PAGE))
            .map_err(io::Error::other)?;
        // SAFETY: the size is not zero.
        let entries = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(entries.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        // SAFETY: the memory is never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, GROUP, 0) }?;
        let mut buffers =
            Self { entries, memory: vec![0; usize::from(BUFFERS) * BUFFER_LEN].into(), tail: 0 };
        for id in 0..BUFFERS {
            buffers.give(id);
        }
        Ok(buffers)
    }

    /// Returns the first `len` bytes of the receive buffer `id`, which the kernel has filled.
    fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let at = usize::from(id) * BUFFER_LEN;
        &self.memory[at..at + len]
    }

    /// Gives the receive buffer `id` back to the kernel.
    fn give(&mut self, id: u16) {
        let index = usize::from(self.tail & (BUFFERS - 1));
        let at = usize::from(id) * BUFFER_LEN;
        // SAFETY: the index is below the number of entries.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the memory is initialised (zeroed), and the kernel looks only at entries before the tail.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(self.memory[at..].as_mut_ptr() as u64);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the start of the ring, and initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail lies in memory that is ours and aligned; only the kernel reads it meanwhile.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
