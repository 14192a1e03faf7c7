#!/usr/bin/env php
<?php
/*
 * The baseline: the WebSocket server of the article "Building WebSockets in PHP from Scratch", completed.
 *
 * It has one master and N forked workers, a socket pair between the master and each worker, stream_select in every
 * process, reads of 1,000 bytes, and one accept per turn. All workers accept on the same socket. The master only
 * passes messages from one worker to the others. The article leaves out the handshake and the coding of frames; here
 * they use string operations instead of loops over bytes.
 *
 *     php baseline.php --listen ADDR:PORT --app chat|relay|echo --workers N
 *         [--max-per-address N] [--nagle on|off]
 *
 * Faults of the article stay, except those that prevent a measurement. These are fixed:
 *
 *  1. With one worker no client receives anything, because the master skips the worker that sent a message.
 *     Here a worker delivers to its own clients itself.
 *  2. Messages between processes have no boundaries, so they merge and split. Here each has a length.
 *  3. A frame longer than one read, or the second frame in one read, is lost. Here each client has an input buffer.
 *  4. Short writes are not continued, and a client whose socket is full misses the message. Here the rest is kept
 *     and written when the socket is ready. All sockets are nonblocking.
 *  5. Several workers wait in select for the same listener, and those that lose the race hang in accept until
 *     the next client. Here the listener is nonblocking.
 *  6. Close frames are ignored, so a client that closes properly waits forever. Here they are answered.
 *  7. A worker whose master has ended spins on the end of file. Here it ends, too.
 *  8. Six connections are allowed from one address. Here that is an option, off by default.
 *  9. Nagle's algorithm delays small writes until the client acknowledges, up to 40 ms later, so a run with few
 *     clients measures that timer. Here it is off; --nagle on is the article's way.
 *
 * These faults stay on purpose:
 *
 *  - stream_select is limited to 1,024 descriptors. A worker that accepts one more client no longer serves any:
 *    its select fails in every turn until a client leaves, which it cannot notice. (The article's worker then hangs
 *    in accept; this one sleeps, and ends with the master.)
 *  - Every message calls select on every client before it is sent, and then makes one write per client.
 *  - Neither the pending bytes of a client that does not read nor the length of a message is limited.
 *  - A client that connects and sends nothing stays forever. Pings are not answered, fragmented messages are
 *    dropped, and an invalid frame ends the connection without a close frame.
 *  - The order of messages differs between clients of different workers.
 *  - All clients are in one room, whatever the path. The listener's backlog is PHP's default of 32.
 */

declare(strict_types=1);

const READ_SIZE = 1000;
const HEAD_LIMIT = 16384;
const ACCEPT_SUFFIX = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

const TEXT = 0x1;
const BINARY = 0x2;
const CLOSE = 0x8;

/** Opens the listener, forks the workers and runs the master. */
final class Launcher
{
    public function __construct(private Settings $settings)
    {
    }

    public function launch(): void
    {
        $flags = STREAM_SERVER_BIND | STREAM_SERVER_LISTEN;
        $context = stream_context_create(['socket' => ['tcp_nodelay' => !$this->settings->nagle]]);
        $listener = @stream_socket_server("tcp://{$this->settings->listen}", $code, $message, $flags, $context);
        if (!$listener) {
            fail("cannot listen on {$this->settings->listen}: $message");
        }
        stream_set_blocking($listener, false);
        $address = stream_socket_get_name($listener, false);
        $workers = [];
        for ($number = 0; $number < $this->settings->workers; $number++) {
            [$ours, $theirs] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, STREAM_IPPROTO_IP);
            $child = pcntl_fork();
            if ($child < 0) {
                fail('cannot fork worker ' . ($number + 1));
            }
            if ($child === 0) {
                array_map('fclose', [$ours, ...$workers]);
                $worker = match ($this->settings->app) {
                    'chat' => new ChatWorker($listener, $theirs, $this->settings),
                    'relay' => new RelayWorker($listener, $theirs, $this->settings),
                    'echo' => new EchoWorker($listener, $theirs, $this->settings),
                };
                $worker->run();
                return;
            }
            fclose($theirs);
            $workers[] = $ours;
        }
        fclose($listener);
        echo "listening on $address ({$this->settings->app}, {$this->settings->workers} workers)\n";
        (new Master($workers))->run();
    }
}

/** A set of nonblocking sockets and their pending bytes. Keys are the streams' numbers. */
abstract class Process
{
    /** Bytes that wait for room in a socket. */
    private array $unsent = [];

    /** Waits for sockets and keeps the keys of the arrays. Returns false if there are too many for select. */
    protected function select(array &$read, array &$write, ?int $seconds): bool
    {
        $except = null;
        if (stream_select($read, $write, $except, $seconds) !== false) {
            return true;
        }
        $read = $write = [];
        return false;
    }

    protected function write($stream, string $bytes): void
    {
        $id = (int) $stream;
        if (isset($this->unsent[$id])) {
            $this->unsent[$id] .= $bytes;
            return;
        }
        $count = (int) @fwrite($stream, $bytes);
        if ($count < strlen($bytes)) {
            $this->unsent[$id] = substr($bytes, $count);
        }
    }

    protected function writeLater($stream, string $bytes): void
    {
        $this->unsent[(int) $stream] = ($this->unsent[(int) $stream] ?? '') . $bytes;
    }

    /** Writes the pending bytes of a socket that has room again. */
    protected function resume($stream): void
    {
        $bytes = $this->unsent[(int) $stream] ?? '';
        unset($this->unsent[(int) $stream]);
        if ($bytes !== '') {
            $this->write($stream, $bytes);
        }
    }

    /** Returns the sockets with pending bytes. */
    protected function blocked(array $streams): array
    {
        return $this->unsent ? array_intersect_key($streams, $this->unsent) : [];
    }

    protected function forget(int $id): void
    {
        unset($this->unsent[$id]);
    }
}

/** Passes each message of a worker to all other workers. */
final class Master extends Process
{
    private array $workers = [];
    private array $input = [];

    public function __construct(array $workers)
    {
        foreach ($workers as $worker) {
            stream_set_blocking($worker, false);
            $this->workers[(int) $worker] = $worker;
            $this->input[(int) $worker] = '';
        }
    }

    public function run(): void
    {
        while ($this->workers) {
            $read = $this->workers;
            $write = $this->blocked($this->workers);
            $this->select($read, $write, null);
            foreach ($write as $worker) {
                $this->resume($worker);
            }
            foreach ($read as $id => $worker) {
                $data = fread($worker, READ_SIZE);
                if ($data === '' || $data === false) {
                    unset($this->workers[$id], $this->input[$id]);
                    $this->forget($id);
                    fclose($worker);
                    continue;
                }
                $this->input[$id] .= $data;
                foreach (Packet::takeAll($this->input[$id]) as $packet) {
                    $this->carry($packet, $id);
                }
            }
        }
    }

    private function carry(string $packet, int $from): void
    {
        foreach ($this->workers as $id => $worker) {
            if ($id !== $from) {
                $this->write($worker, Packet::wrap($packet));
            }
        }
    }
}

/** Accepts clients, makes the handshake and reads messages. A subclass handles them. */
abstract class Worker extends Process
{
    /** All clients, and those that have made the handshake. */
    protected array $clients = [];
    protected array $open = [];
    private array $input = [];
    /** Requests whose answer waits for room in the socket. */
    private array $requests = [];
    private array $addresses = [];
    private array $perAddress = [];
    private string $masterInput = '';
    protected int $pid;
    private int $parent;

    public function __construct(private $listener, private $master, private Settings $settings)
    {
        stream_set_blocking($master, false);
        $this->pid = posix_getpid();
        $this->parent = posix_getppid();
    }

    public function run(): void
    {
        while (true) {
            $read = $this->clients;
            $read['listener'] = $this->listener;
            $read['master'] = $this->master;
            $write = $this->blocked($this->clients) + $this->blocked([(int) $this->master => $this->master]);
            foreach ($this->requests as $id => $request) {
                $write[$id] = $this->clients[$id];
            }
            if (!$this->select($read, $write, null)) {
                if (posix_getppid() !== $this->parent) {
                    return;
                }
                usleep(10_000);
            }
            if (isset($read['listener'])) {
                $this->accept();
            }
            if (isset($read['master']) && !$this->readMaster()) {
                return;
            }
            unset($read['listener'], $read['master']);
            foreach ($read as $id => $client) {
                if (isset($this->clients[$id])) {
                    $this->read($id, $client);
                }
            }
            foreach ($write as $id => $stream) {
                if (isset($this->requests[$id])) {
                    $this->shakeHands($id, $stream);
                } elseif (is_resource($stream)) {
                    $this->resume($stream);
                }
            }
        }
    }

    abstract protected function onOpen($client): void;
    abstract protected function onClose(int $id): void;
    abstract protected function onMessage($client, int $opcode, string $payload): void;
    /** Handles a message of another worker. */
    abstract protected function onBroadcast(int $opcode, string $payload): void;

    /** Sends a message to the clients of all workers. */
    protected function broadcast(int $opcode, string $payload): void
    {
        $this->distribute($opcode, $payload);
        $this->write($this->master, Packet::wrap(chr($opcode) . $payload));
    }

    /** Sends a message to the clients of this worker. */
    protected function distribute(int $opcode, string $payload): void
    {
        $frame = Frame::encode($opcode, $payload);
        $read = [];
        $ready = $this->open;
        if (!$ready) {
            return;
        }
        $this->select($read, $ready, 0);
        foreach ($this->open as $id => $client) {
            if (isset($ready[$id])) {
                $this->write($client, $frame);
            } else {
                $this->writeLater($client, $frame);
            }
        }
    }

    private function accept(): void
    {
        $client = @stream_socket_accept($this->listener, 0, $name);
        if (!$client) {
            return;
        }
        $address = substr($name, 0, (int) strrpos($name, ':'));
        $limit = $this->settings->maxPerAddress;
        if ($limit && ($this->perAddress[$address] ?? 0) >= $limit) {
            fclose($client);
            return;
        }
        stream_set_blocking($client, false);
        $id = (int) $client;
        $this->clients[$id] = $client;
        $this->input[$id] = '';
        $this->addresses[$id] = $address;
        $this->perAddress[$address] = ($this->perAddress[$address] ?? 0) + 1;
    }

    /** Returns false if the master has ended. */
    private function readMaster(): bool
    {
        $data = fread($this->master, READ_SIZE);
        if ($data === '' || $data === false) {
            return false;
        }
        $this->masterInput .= $data;
        foreach (Packet::takeAll($this->masterInput) as $packet) {
            $this->onBroadcast(ord($packet[0]), substr($packet, 1));
        }
        return true;
    }

    private function read(int $id, $client): void
    {
        $data = fread($client, READ_SIZE);
        if ($data === '' || $data === false) {
            $this->drop($id);
            return;
        }
        $this->input[$id] .= $data;
        if (isset($this->open[$id])) {
            $this->readFrames($id, $client);
        } elseif (str_contains($this->input[$id], "\r\n\r\n")) {
            [$this->requests[$id], $this->input[$id]] = explode("\r\n\r\n", $this->input[$id], 2);
        } elseif (strlen($this->input[$id]) > HEAD_LIMIT) {
            $this->drop($id);
        }
    }

    private function readFrames(int $id, $client): void
    {
        while (isset($this->open[$id]) && $frame = Frame::take($this->input[$id])) {
            switch ($frame->opcode) {
                case TEXT:
                case BINARY:
                    $this->onMessage($client, $frame->opcode, $frame->payload);
                    break;
                case CLOSE:
                    $this->write($client, Frame::encode(CLOSE, substr($frame->payload, 0, 2)));
                    $this->drop($id);
                    break;
                case Frame::INVALID:
                    $this->drop($id);
                    break;
            }
        }
    }

    private function shakeHands(int $id, $client): void
    {
        $request = $this->requests[$id];
        unset($this->requests[$id]);
        if (!preg_match('/^Sec-WebSocket-Key:\s*(\S+)\s*$/mi', $request, $match)) {
            $this->drop($id);
            return;
        }
        $accept = base64_encode(sha1($match[1] . ACCEPT_SUFFIX, true));
        $this->write($client, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            . "Connection: Upgrade\r\nSec-WebSocket-Accept: $accept\r\n\r\n");
        $this->open[$id] = $client;
        $this->onOpen($client);
        if ($this->input[$id] !== '') {
            $this->readFrames($id, $client);
        }
    }

    private function drop(int $id): void
    {
        $client = $this->clients[$id];
        $address = $this->addresses[$id];
        if (--$this->perAddress[$address] === 0) {
            unset($this->perAddress[$address]);
        }
        $wasOpen = isset($this->open[$id]);
        unset($this->clients[$id], $this->open[$id], $this->input[$id], $this->requests[$id]);
        unset($this->addresses[$id]);
        $this->forget($id);
        fclose($client);
        if ($wasOpen) {
            $this->onClose($id);
        }
    }
}

/** The article's chat: lines with the sender's number and the worker's process, without HTML tags. */
final class ChatWorker extends Worker
{
    protected function onOpen($client): void
    {
    }

    protected function onClose(int $id): void
    {
    }

    protected function onMessage($client, int $opcode, string $payload): void
    {
        // A client closes when it receives text that is not UTF-8, so such text is dropped.
        if ($opcode === TEXT && $payload !== '' && preg_match('//u', $payload)) {
            $this->broadcast(TEXT, 'User #' . (int) $client . " ({$this->pid}): " . strip_tags($payload));
        }
    }

    protected function onBroadcast(int $opcode, string $payload): void
    {
        $this->distribute($opcode, $payload);
    }
}

/** Sends every message unchanged to all clients. */
final class RelayWorker extends Worker
{
    protected function onOpen($client): void
    {
    }

    protected function onClose(int $id): void
    {
    }

    protected function onMessage($client, int $opcode, string $payload): void
    {
        $this->broadcast($opcode, $payload);
    }

    protected function onBroadcast(int $opcode, string $payload): void
    {
        $this->distribute($opcode, $payload);
    }
}

/** Sends every message back to its sender only. */
final class EchoWorker extends Worker
{
    protected function onOpen($client): void
    {
    }

    protected function onClose(int $id): void
    {
    }

    protected function onMessage($client, int $opcode, string $payload): void
    {
        $this->write($client, Frame::encode($opcode, $payload));
    }

    protected function onBroadcast(int $opcode, string $payload): void
    {
    }
}

/** WebSocket frames (RFC 6455 section 5.2). */
final class Frame
{
    public const INVALID = -1;

    private function __construct(public readonly int $opcode, public readonly string $payload)
    {
    }

    /** Takes the frame at the start of the input. Returns null if it is incomplete. */
    public static function take(string &$input): ?self
    {
        $have = strlen($input);
        if ($have < 2) {
            return null;
        }
        $first = ord($input[0]);
        $second = ord($input[1]);
        if (!($second & 0x80) || $first & 0x70) {
            return new self(self::INVALID, '');
        }
        $length = $second & 0x7f;
        $header = 2 + ([126 => 2, 127 => 8][$length] ?? 0);
        if ($have < $header + 4) {
            return null;
        }
        if ($length === 126) {
            $length = unpack('n', $input, 2)[1];
        } elseif ($length === 127) {
            $length = unpack('J', $input, 2)[1];
        }
        $end = $header + 4 + $length;
        if ($length < 0) {
            return new self(self::INVALID, '');
        }
        if ($have < $end) {
            return null;
        }
        $key = substr($input, $header, 4);
        $payload = substr($input, $header + 4, $length) ^ str_repeat($key, intdiv($length + 3, 4));
        $input = substr($input, $end);
        // A fragment gets an opcode that no handler knows.
        return new self($first & 0x80 ? $first & 0x0f : 0, $payload);
    }

    public static function encode(int $opcode, string $payload): string
    {
        $length = strlen($payload);
        $header = match (true) {
            $length < 126 => pack('CC', 0x80 | $opcode, $length),
            $length < 65536 => pack('CCn', 0x80 | $opcode, 126, $length),
            default => pack('CCJ', 0x80 | $opcode, 127, $length),
        };
        return $header . $payload;
    }
}

/** Messages between processes: a length of four bytes, then the bytes. */
final class Packet
{
    public static function wrap(string $packet): string
    {
        return pack('N', strlen($packet)) . $packet;
    }

    /** Takes the complete packets from the start of the input. */
    public static function takeAll(string &$input): array
    {
        $packets = [];
        $at = 0;
        $have = strlen($input);
        while ($have - $at >= 4 && $have - $at >= 4 + $length = unpack('N', $input, $at)[1]) {
            $packets[] = substr($input, $at + 4, $length);
            $at += 4 + $length;
        }
        $input = substr($input, $at);
        return $packets;
    }
}

/** The command line. */
final class Settings
{
    public string $listen = '127.0.0.1:8000';
    public string $app = 'chat';
    public int $workers = 1;
    /** Whether small writes wait for acknowledgements, which is PHP's default. */
    public bool $nagle = false;
    /** Limit of connections from one address; 0 means no limit. The article has 6. */
    public int $maxPerAddress = 0;

    public static function parse(array $arguments): self
    {
        $settings = new self();
        while (($name = array_shift($arguments)) !== null) {
            $value = array_shift($arguments) ?? fail("$name needs a value");
            match ($name) {
                '--listen' => $settings->listen = $value,
                '--app' => $settings->app = $value,
                '--workers' => $settings->workers = (int) $value,
                '--nagle' => $settings->nagle = $value === 'on',
                '--max-per-address' => $settings->maxPerAddress = (int) $value,
                default => fail("$name is no option; there are --listen, --app, --workers, --nagle, --max-per-address"),
            };
        }
        if (!in_array($settings->app, ['chat', 'relay', 'echo'], true)) {
            fail("--app {$settings->app}: give chat, relay or echo");
        }
        if ($settings->workers < 1) {
            fail('--workers: give at least 1');
        }
        return $settings;
    }
}

/** Shows the warning of select about too high descriptors once instead of every turn. */
function warn(int $level, string $message): bool
{
    static $warned = false;
    if (!str_contains($message, 'FD_SETSIZE')) {
        return false;
    }
    if (!$warned) {
        fwrite(STDERR, 'baseline: ' . trim($message) . "\n");
    }
    return $warned = true;
}

function fail(string $message): never
{
    fwrite(STDERR, "baseline: $message\n");
    exit(2);
}

set_error_handler(warn(...));
(new Launcher(Settings::parse(array_slice($argv, 1))))->launch();
