// Checks for every client with the WebSocket interface of browsers. The function also runs inside a page, so it must
// not use definitions outside of it.

/**
 * Runs all checks. `open(url)` creates a WebSocket. `extensions` is the beginning of the agreed extensions, '' for
 * none, or null to check nothing. Returns the number of checks and a line for each failed one.
 */
export async function checks({ open, echo, chat, extensions, reconnects }) {
  const failures = [];
  let count = 0;
  const check = (what, holds) => {
    count++;
    if (!holds) failures.push(what);
  };

  const connect = url => new Promise((resolve, reject) => {
    const socket = open(url);
    socket.binaryType = 'arraybuffer';
    socket.addEventListener('open', () => resolve(socket));
    socket.addEventListener('error', event => reject(new Error(`${url}: ${event.message ?? 'error'}`)));
  });
  const receive = socket => new Promise((resolve, reject) => {
    const ended = event => reject(new Error(`closed: ${event.code} ${event.reason}`));
    socket.addEventListener('close', ended, { once: true });
    socket.addEventListener('message', event => {
      socket.removeEventListener('close', ended);
      resolve(event.data);
    }, { once: true });
  });
  const closed = socket => new Promise(resolve => socket.addEventListener('close', resolve, { once: true }));

  const echoOf = async (socket, data) => {
    const answer = receive(socket);
    socket.send(data);
    return answer;
  };

  const socket = await connect(echo);
  const agreed = socket.extensions;
  if (extensions !== null) {
    check(`agreed on ${agreed}`, extensions === '' ? agreed === '' : agreed.startsWith(extensions));
  }
  // The last message repeats the one before it, which tests context takeover.
  for (const length of [1, 125, 126, 127, 65535, 65536, 1 << 20, 1 << 20]) {
    const text = 'grüße 🎉 uproar '.repeat(length / 10 + 1).slice(0, length).toWellFormed();
    const size = Math.min(new TextEncoder().encode(text).length, 1 << 20);
    const bytes = new Uint8Array(size).map((_, at) => (at * at) >> 3);
    const short = text.slice(0, Math.floor(length * 0.7)).toWellFormed();
    check(`text of ${length}`, await echoOf(socket, short) === short);
    const back = new Uint8Array(await echoOf(socket, bytes));
    check(`binary of ${length}`, back.length === bytes.length && back.every((byte, at) => byte === bytes[at]));
  }
  check('empty text', await echoOf(socket, '') === '');

  // Closing by the client, then by the server.
  let end = closed(socket);
  socket.close(3001, 'bye');
  let { code, reason, wasClean } = await end;
  check(`the close with 3001 was answered with ${code}, clean: ${wasClean}`, code === 3001 && wasClean !== false);
  const binary = await connect(chat);
  end = closed(binary);
  binary.send(new Uint8Array([1]));
  ({ code, reason } = await end);
  check(`a binary message to the chat was closed with ${code} ${reason}`, code === 1003 && reason !== '');
  const long = await connect(echo);
  end = closed(long);
  long.send(new Uint8Array((1 << 20) + 1).map((_, at) => (at * 2654435761) >> 11));
  ({ code } = await end);
  check(`a message over the limit was closed with ${code}`, code === 1009);

  for (let left = reconnects; left > 0; left--) {
    const quick = await connect(echo);
    check('an echo after reconnecting', await echoOf(quick, `${left}`) === `${left}`);
    end = closed(quick);
    quick.close(1000);
    await end;
  }

  // A client with a session gets every line in order, however it is cut off.
  const id = `session-${Math.random().toString(36).slice(2)}-${Date.now()}`;
  const room = `${chat}room/${id}`;
  const listen = url => {
    const socket = open(url);
    const numbers = [];
    let told = () => {}, failed = () => {};
    socket.addEventListener('close', event => failed(new Error(`closed: ${event.code} ${event.reason}`)));
    socket.addEventListener('message', event => {
      const found = /: (\d+)$/.exec(event.data);
      if (found) numbers.push(Number(found[1]));
      told();
    });
    const until = holds => new Promise((resolve, reject) => {
      told = () => { if (holds()) resolve(); };
      failed = reject;
      told();
    });
    const opened = new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', event => reject(new Error(`${url}: ${event.message ?? 'error'}`)));
    });
    return { socket, numbers, opened, hears: number => until(() => numbers.includes(number)) };
  };
  const speaker = listen(room);
  await speaker.opened;
  let said = 0, expected = 0;
  const say = async () => {
    const heard = speaker.hears(said);
    speaker.socket.send(`${said++}`);
    await heard;
  };
  for (let cut = 0; cut < 10; cut++) {
    const listener = listen(`${room}?session=${id}`);
    await listener.opened;
    await say();
    await listener.hears(said - 1);
    const [first] = listener.numbers;
    check(`after cut ${cut}: ${listener.numbers} instead of lines from ${expected} on`, first <= expected
      && listener.numbers.every((number, at) => number === first + at));
    expected = said;
    if (listener.socket.terminate) listener.socket.terminate();
    else listener.socket.close();
    await say();
    await say();
  }
  speaker.socket.close();
  return { count, failures };
}
