//! The limit program on epoll: one `epoll_wait` per turn, one `recv` per readable client, one `send` per client. The
//! documentation of the `limit` library lists the parts of a server that the program lacks.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;

use limit::{Ended, Input, Room};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use peer::{App, Arguments, listen, raise_descriptor_limit};

const LISTENER: Token = Token(usize::MAX);
const READ_LEN: usize = 64 * 1024;
const EVENTS: usize = 1024;

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    raise_descriptor_limit()?;
    let mut listener = TcpListener::from_std(listen(arguments.listen)?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut server = Server::new(arguments.app);
    let mut events = Events::with_capacity(EVENTS);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener, &poll),
                Token(slot) => server.handle(slot, event.is_readable(), event.is_writable()),
            }
        }
        server.end_turn();
    }
}

struct Server {
    app: App,
    clients: Vec<Option<Client>>,
    vacant: Vec<usize>,
    room: Room,
    /// Frames from clients that are appended to the room at the end of the turn.
    gathered: Vec<u8>,
    buffer: Box<[u8]>,
}

struct Client {
    stream: TcpStream,
    input: Input,
    /// Bytes for this client alone that wait to be sent.
    own: Vec<u8>,
    /// The client's position in the room: the next byte of the room to be sent.
    position: u64,
    /// The socket's send buffer is full.
    blocked: bool,
    ended: bool,
}

impl Server {
    fn new(app: App) -> Self {
        Self {
            app,
            clients: Vec::new(),
            vacant: Vec::new(),
            room: Room::default(),
            gathered: Vec::new(),
            buffer: vec![0; READ_LEN].into(),
        }
    }

    fn accept(&mut self, listener: &TcpListener, poll: &Poll) {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return eprintln!("cannot accept: {error}"),
            };
            let slot = self.vacant.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = poll.registry().register(&mut stream, Token(slot), interest) {
                return eprintln!("cannot register: {error}");
            }
            self.clients[slot] = Some(Client {
                stream,
                input: Input::default(),
                own: Vec::new(),
                position: 0,
                blocked: false,
                ended: false,
            });
        }
    }

    fn handle(&mut self, slot: usize, readable: bool, writable: bool) {
        let Some(client) = &mut self.clients[slot] else { return };
        if writable {
            client.blocked = false;
        }
        if readable {
            let was_open = client.input.is_open;
            client.read(&mut self.buffer, self.app, &mut self.gathered);
            if client.input.is_open && !was_open {
                client.position = self.room.head();
            }
        }
        self.send(slot);
    }

    fn end_turn(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        self.room.append(&self.gathered);
        self.gathered.clear();
        for slot in 0..self.clients.len() {
            self.send(slot);
        }
    }

    fn send(&mut self, slot: usize) {
        let Some(client) = &mut self.clients[slot] else { return };
        if client.send(&self.room).is_err() {
            // Shuts down both directions, so that the descriptor reports the end of the connection.
            let _ = client.stream.shutdown(Shutdown::Both);
            self.clients[slot] = None;
            self.vacant.push(slot);
        }
    }
}

impl Client {
    /// Reads from the client until the socket is empty. A read that does not fill the buffer is the last read.
    fn read(&mut self, buffer: &mut [u8], app: App, gathered: &mut Vec<u8>) {
        while !self.ended {
            match self.stream.read(buffer) {
                Ok(count) if count > 0 => {
                    let received = self.input.receive(&buffer[..count], app, &mut self.own, gathered);
                    self.ended |= received.is_err();
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => self.ended = true,
            }
        }
    }

    /// Sends pending bytes until the socket is full. An error means that the connection has ended.
    fn send(&mut self, room: &Room) -> Result<(), Ended> {
        while !self.blocked {
            let is_own = !self.own.is_empty();
            let bytes = match (is_own, self.input.is_open) {
                (true, _) => &self.own[..],
                (false, true) if !self.ended => room.since(self.position)?,
                _ => &[],
            };
            if bytes.is_empty() {
                break;
            }
            match self.stream.write(bytes) {
                Ok(count) if is_own => drop(self.own.drain(..count)),
                Ok(count) => self.position += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Ended),
            }
        }
        if self.ended { Err(Ended) } else { Ok(()) }
    }
}
