// Runs the same steps against two Pusher servers and prints where they differ:
//
//   node tests/pusher/differences.mjs HOST:PORT HOST:PORT
//
// Both servers have the application bench:bench-key:bench-secret (id, key, secret) and allow client events. docs/trust.md
// explains the differences between uproar and sockudo. Needs `npm ci` in this directory.
import { createHash, createHmac } from 'node:crypto';
import http from 'node:http';
import Ws from 'ws';

const [ID, KEY, SECRET] = ['bench', 'bench-key', 'bench-secret'];
const PATIENCE_MS = 3000, SETTLE_MS = 60;
const hmac = text => createHmac('sha256', SECRET).update(text).digest('hex');
let unique = 0;

/** A WebSocket connection. `round` sends events and returns what comes until the server is quiet. */
class Peer {
  constructor(server, path = `/app/${KEY}?protocol=7&client=js&version=8.0.0`) {
    this.socket = new Ws(`ws://${server}${path}`, { perMessageDeflate: false });
    this.events = [];
    this.end = null;
    this.wake = () => {};
    this.socket.on('message', data => { this.events.push(JSON.parse(data)); this.wake(); });
    this.socket.on('close', code => { this.end ??= `closed ${code}`; this.wake(); });
    this.socket.on('unexpected-response', (_, response) => { this.end = `status ${response.statusCode}`; this.socket.terminate(); this.wake(); });
    this.socket.on('error', () => {});
  }
  async until(found) {
    const deadline = Date.now() + PATIENCE_MS;
    while (!found() && !this.end) {
      const left = deadline - Date.now();
      if (left <= 0) { this.end ??= 'silence'; return; }
      await new Promise(resolve => { this.wake = resolve; setTimeout(resolve, left); });
    }
  }
  async open() {
    await this.until(() => this.events.length > 0);
    const first = this.events.shift();
    this.id = first?.data ? JSON.parse(first.data).socket_id : undefined;
    return this;
  }
  send(event) { this.socket.send(typeof event === 'string' ? event : JSON.stringify(event)); }
  async round(...events) {
    if (events.length > 1) return [...await this.round(events[0]), ...await this.round(...events.slice(1))];
    for (const event of events) this.send(event);
    if (!this.end) this.send({ event: 'pusher:ping', data: {} });
    await this.until(() => this.events.some(({ event }) => event === 'pusher:pong'));
    // The answer to a ping may come before events that other threads of the server cause.
    for (let count = -1; count !== this.events.length;) {
      count = this.events.length;
      await new Promise(resolve => setTimeout(resolve, SETTLE_MS));
    }
    const seen = this.events.filter(({ event }) => event !== 'pusher:pong');
    this.events = [];
    return this.end ? [...seen, this.end] : seen;
  }
  subscribe(channel, { auth, data } = {}) {
    const signed = [this.id, channel, data].filter(part => part !== undefined).join(':');
    return { event: 'pusher:subscribe', data: { channel, auth: auth ?? `${KEY}:${hmac(signed)}`, channel_data: data } };
  }
  signin(userData, auth) {
    return { event: 'pusher:signin', data: { auth: auth ?? `${KEY}:${hmac(`${this.id}::user::${userData}`)}`, user_data: userData } };
  }
  close() { this.socket.close(); }
}

/** Sends a signed request. `change` alters the query before it is signed, `spoil` afterwards. */
async function rest(server, method, path, body = '', { query = {}, change = q => q, spoil = q => q } = {}) {
  const url = `/apps/${ID}${path}`;
  let all = { ...query, auth_key: KEY, auth_timestamp: Math.floor(Date.now() / 1000), auth_version: '1.0' };
  if (body) all.body_md5 = createHash('md5').update(body).digest('hex');
  all = change(all);
  const text = Object.keys(all).sort().map(name => `${name}=${all[name]}`).join('&');
  const signed = spoil(`${text}&auth_signature=${hmac(`${method}\n${url}\n${text}`)}`);
  const [host, port] = server.split(':');
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, method, path: `${url}?${signed}`, headers: { 'Content-Type': 'application/json' }, agent: false }, response => {
      let text = '';
      response.on('data', chunk => { text += chunk; });
      response.on('end', () => {
        let json = text;
        try { json = JSON.parse(text); } catch {}
        resolve({ status: response.statusCode, body: response.statusCode === 200 ? json : 'an error' });
      });
    });
    request.on('error', reject);
    request.end(body);
  });
}

const steps = [];
const step = (name, run) => steps.push([name, run]);
const presence = (id, info) => JSON.stringify({ user_id: id, ...(info === undefined ? {} : { user_info: info }) });

for (const path of [
  `/app/${KEY}?protocol=7`, `/app/${KEY}?protocol=6`, `/app/${KEY}?protocol=5`, `/app/${KEY}?protocol=4`, `/app/${KEY}?protocol=8`,
  `/app/${KEY}?protocol=x`, `/app/${KEY}`, '/app/unknown?protocol=7', '/app/?protocol=7', '/app?protocol=7', '/', `/app/${KEY}/x?protocol=7`,
  `/apps/${KEY}?protocol=7`, `/app/${KEY}?client=js`, `/app/${KEY}?protocol=7&protocol=6`,
]) {
  step(`connect ${path}`, async server => {
    const peer = new Peer(server, path);
    await peer.until(() => peer.events.length > 0);
    await new Promise(resolve => setTimeout(resolve, 50));
    const seen = peer.events.map(({ event, data }) => ({ event, type: typeof data, data }));
    peer.close();
    return [...seen, peer.end];
  });
}

// Messages that are no events, and events that are not the protocol's.
for (const text of [
  '', 'x', '[]', '1', 'null', '{}', '{"event":null}', '{"event":1}', '{"event":""}', '{"event":"x"}', '{"event":"pusher:x"}', '{"event":"pusher_internal:x"}',
  '{"event":"pusher:ping"}', '{"event":"pusher:ping","data":""}', '{"event":"pusher:ping","data":{"a":1}}', '{"event":"pusher:ping","channel":"a"}', '{"event":"pusher:pong"}',
  '{"event":"pusher:subscribe"}', '{"event":"pusher:subscribe","data":{}}', '{"event":"pusher:subscribe","data":""}', '{"event":"pusher:subscribe","data":{"channel":1}}',
  '{"event":"pusher:subscribe","data":{"channel":null}}', '{"event":"pusher:subscribe","data":{"channel":""}}', '{"event":"pusher:unsubscribe"}',
  '{"event":"pusher:unsubscribe","data":{}}', '{"event":"pusher:unsubscribe","data":{"channel":"never"}}', '{"event":"pusher:signin"}', '{"event":"pusher:signin","data":{}}',
  '{"event":"client-x"}', '{"event":"client-x","channel":"a"}', '{"event":"client-x","channel":"a","data":{}}', '{"event":"pusher:subscribe","data":"{\\"channel\\":\\"text-data\\"}"}',
  '{"event":"pusher:subscribe","data":{"channel":"a-1","extra":[1]}}', '{"event":"pusher:subscribe","data":{"channel":"a-2"},"extra":1}',
]) step(`message ${text}`, async server => { const peer = await new Peer(server).open(); const seen = await peer.round(text); peer.close(); return seen; });

// Names of channels and signatures.
const names = ['lobby', 'UPPER', 'a_-=@,.;9', 'a b', 'a/b', 'ä', '#a', '#server-to-user-1', 'x'.repeat(164), 'x'.repeat(165), 'x'.repeat(200), 'x'.repeat(201), 'private', 'presence', 'cache-lobby'];
for (const name of names) step(`subscribe ${name.length > 20 ? `${name[0]} × ${name.length}` : name}`, async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.subscribe(name, { auth: '' })); peer.close(); return seen; });
for (const prefix of ['private-', 'private-encrypted-', 'presence-', 'private-cache-', 'private-encrypted-cache-', 'presence-cache-']) {
  const data = prefix.startsWith('presence-') ? presence('1', { name: 'Ann' }) : undefined;
  const channel = () => `${prefix}auth-${unique}`;
  for (const [what, auth] of [['right', undefined], ['no', null], ['empty', ''], ['wrong', `${KEY}:${'0'.repeat(64)}`], ['another key\'s', `other:${'0'.repeat(64)}`], ['bare', '0'.repeat(64)]]) {
    step(`${prefix}: ${what} signature`, async server => {
      const peer = await new Peer(server).open();
      const event = peer.subscribe(channel(), { auth: auth === null ? undefined : auth, data });
      if (auth === null) delete event.data.auth;
      const seen = await peer.round(event);
      peer.close();
      return seen;
    });
  }
  step(`${prefix}: twice`, async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.subscribe(channel(), { data }), peer.subscribe(channel(), { data })); peer.close(); return seen; });
  step(`${prefix}: again after leaving`, async server => {
    const peer = await new Peer(server).open();
    const seen = await peer.round(peer.subscribe(channel(), { data }), { event: 'pusher:unsubscribe', data: { channel: channel() } }, peer.subscribe(channel(), { data }));
    peer.close();
    return seen;
  });
}

// Presence: data of members, and events about them.
for (const data of ['', 'x', '[]', '{}', '{"user_id":null}', '{"user_id":""}', '{"user_id":1}', '{"user_id":"1"}', '{"user_id":"a b"}', presence('u'.repeat(128)), presence('u'.repeat(129)), presence('u'.repeat(201)), presence('1', 'text'), presence('1', [1]), presence('1', { x: 'x'.repeat(900) }), presence('1', { x: 'x'.repeat(3000) })]) {
  step(`presence data ${data.length > 40 ? `${data.slice(0, 20)}… (${data.length})` : data}`, async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.subscribe(`presence-data-${unique}`, { data })); peer.close(); return seen; });
}
async function pair(server, channel, ids) {
  const peers = [];
  for (const id of ids) {
    const peer = await new Peer(server).open();
    await peer.round(peer.subscribe(channel, { data: presence(id, { id }) }));
    peers.push(peer);
  }
  return peers;
}
step('presence: another user', async server => { const peers = await pair(server, `presence-two-${unique}`, ['1', '2']); const seen = await peers[0].round(); peers.forEach(peer => peer.close()); return seen; });
step('presence: the same user', async server => { const peers = await pair(server, `presence-two-${unique}`, ['1', '1']); const seen = await peers[0].round(); peers.forEach(peer => peer.close()); return seen; });
step('presence: a member leaves', async server => {
  const channel = `presence-two-${unique}`, [one, two] = await pair(server, channel, ['1', '2']);
  await one.round();
  await two.round({ event: 'pusher:unsubscribe', data: { channel } });
  const seen = await one.round();
  one.close(); two.close();
  return seen;
});
step('presence: a connection ends', async server => {
  const [one, two] = await pair(server, `presence-two-${unique}`, ['1', '2']);
  await one.round();
  two.socket.terminate();
  await one.until(() => one.events.length > 0);
  const seen = await one.round();
  one.close();
  return seen;
});
step('presence: one of two connections of a user ends', async server => {
  const [one, two, three] = await pair(server, `presence-two-${unique}`, ['1', '2', '2']);
  await one.round();
  three.socket.terminate();
  await new Promise(resolve => setTimeout(resolve, 100));
  const seen = await one.round();
  one.close(); two.close();
  return seen;
});

// Client events.
for (const prefix of ['', 'private-', 'private-encrypted-', 'presence-', 'private-cache-', 'presence-cache-']) {
  for (const data of ['{"x":1}', '"text"', 'null', undefined]) {
    step(`client event on ${prefix || 'public'} with ${data ?? 'no data'}`, async server => {
      const channel = `${prefix}client-${unique}`, peers = [];
      for (const id of ['1', '2']) {
        const peer = await new Peer(server).open();
        await peer.round(peer.subscribe(channel, prefix.startsWith('presence-') ? { data: presence(id) } : prefix ? {} : { auth: '' }));
        peers.push(peer);
      }
      await peers[0].round();
      const sender = await peers[0].round(`{"event":"client-a","channel":"${channel}"${data === undefined ? '' : `,"data":${data}`}}`);
      const other = await peers[1].round();
      peers.forEach(peer => peer.close());
      return { sender, other };
    });
  }
}
for (const event of ['client-', `client-${'x'.repeat(193)}`, `client-${'x'.repeat(194)}`]) {
  step(`client event's name of ${event.length} bytes`, async server => { const peer = await new Peer(server).open(), channel = `private-name-${unique}`; const seen = await peer.round(peer.subscribe(channel), { event, channel, data: {} }); peer.close(); return seen; });
}
step('client event of 11 KB', async server => { const peer = await new Peer(server).open(), channel = `private-size-${unique}`; const seen = await peer.round(peer.subscribe(channel), { event: 'client-a', channel, data: 'x'.repeat(11000) }); peer.close(); return seen; });
step('client event without subscription', async server => { const peer = await new Peer(server).open(); const seen = await peer.round({ event: 'client-a', channel: 'private-never', data: {} }); peer.close(); return seen; });

// Signing in.
for (const data of ['{"id":"7"}', '{"id":"7","user_info":{"name":"Ann"}}', '{"id":7}', '{"id":""}', '{}', 'x', '', '{"id":"7","watchlist":["8"]}', '{"id":"a b"}', `{"id":"${'u'.repeat(300)}"}`]) {
  step(`signin ${data.length > 60 ? `(${data.length} bytes)` : data}`, async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.signin(data)); peer.close(); return seen; });
}
step('signin with a wrong signature', async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.signin('{"id":"7"}', `${KEY}:00`)); peer.close(); return seen; });
step('signin twice as one user', async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.signin('{"id":"7"}'), peer.signin('{"id":"7"}')); peer.close(); return seen; });
step('signin as another user', async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.signin('{"id":"7"}'), peer.signin('{"id":"8"}')); peer.close(); return seen; });
step('the channel of the user', async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.signin('{"id":"7"}'), peer.subscribe('#server-to-user-7', { auth: '' })); peer.close(); return seen; });
step('the channel of another user', async server => { const peer = await new Peer(server).open(); const seen = await peer.round(peer.signin('{"id":"7"}'), peer.subscribe('#server-to-user-8', { auth: '' })); peer.close(); return seen; });
step('presence after signin without channel_data', async server => {
  const peer = await new Peer(server).open();
  await peer.round(peer.signin('{"id":"7","user_info":{"name":"Ann"}}'));
  const seen = await peer.round(peer.subscribe(`presence-signed-${unique}`));
  peer.close();
  return seen;
});
step('a message to a user', async server => {
  const peer = await new Peer(server).open();
  await peer.round(peer.signin('{"id":"70"}'), peer.subscribe('#server-to-user-70', { auth: '' }));
  const answer = await rest(server, 'POST', '/events', JSON.stringify({ name: 'mail', channels: ['#server-to-user-70'], data: '{}' }));
  await peer.until(() => peer.events.length > 0);
  const seen = await peer.round();
  peer.close();
  return { answer, seen };
});
step('terminate connections', async server => {
  const peer = await new Peer(server).open();
  await peer.round(peer.signin('{"id":"71"}'));
  const answer = await rest(server, 'POST', '/users/71/terminate_connections', '{}');
  await peer.until(() => false);
  return { answer, end: peer.end };
});

// REST.
const event = more => JSON.stringify({ name: 'e', channel: 'rest', data: '{}', ...more });
for (const [what, body] of Object.entries({
  'one channel': event(), 'several channels': event({ channel: undefined, channels: ['a', 'b'] }), 'both': event({ channels: ['a'] }), 'no channel': event({ channel: undefined }),
  'no name': event({ name: undefined }), 'empty name': event({ name: '' }), 'name of 201 bytes': event({ name: 'x'.repeat(201) }), 'no data': event({ data: undefined }), 'object as data': event({ data: { a: 1 } }),
  'number as data': event({ data: 1 }), 'data of 10 KB': event({ data: 'x'.repeat(10240) }), 'data of 11 KB': event({ data: 'x'.repeat(11264) }), '100 channels': event({ channel: undefined, channels: Array.from({ length: 100 }, (_, i) => `c${i}`) }),
  '101 channels': event({ channel: undefined, channels: Array.from({ length: 101 }, (_, i) => `c${i}`) }), 'no channels in the list': event({ channel: undefined, channels: [] }), 'wrong channel': event({ channel: 'a b' }),
  'socket_id': event({ socket_id: '1.1' }), 'wrong socket_id': event({ socket_id: 'x' }), 'info': event({ info: 'subscription_count' }), 'user_count of a public channel': event({ info: 'user_count' }), 'unknown info': event({ info: 'x' }),
  'no JSON': 'x', 'a list': '[]', 'nothing': '',
})) step(`POST events: ${what}`, server => rest(server, 'POST', '/events', body));
const batched = (count, more = {}) => JSON.stringify({ batch: Array.from({ length: count }, () => ({ name: 'e', channel: 'rest', data: '{}', ...more })) });
for (const [what, body] of Object.entries({ 'one': batched(1), 'ten': batched(10), 'eleven': batched(11), 'none': batched(0), 'info': batched(2, { info: 'subscription_count' }), 'channels': batched(1, { channel: undefined, channels: ['a'] }), 'no list': '{"batch":1}' }))
  step(`POST batch_events: ${what}`, server => rest(server, 'POST', '/batch_events', body));
for (const [path, query] of [
  ['/channels/nobody', {}], ['/channels/nobody', { info: 'subscription_count' }], ['/channels/nobody', { info: 'user_count' }], ['/channels/presence-nobody', { info: 'user_count' }], ['/channels/nobody', { info: 'cache' }],
  ['/channels/cache-nobody', { info: 'cache' }], ['/channels/nobody', { info: 'x' }], ['/channels/a%20b', {}], ['/channels/nobody/users', {}], ['/channels/presence-nobody/users', {}], ['/channels', { info: 'user_count' }],
  ['/channels', { filter_by_prefix: 'nothing-' }], ['/channels', { filter_by_prefix: 'presence-nothing', info: 'user_count' }], ['/channels', { filter_by_prefix: 'nothing-', info: 'subscription_count' }], ['/nothing', {}], ['/events', {}],
]) step(`GET ${path} ${JSON.stringify(query)}`, server => rest(server, 'GET', path, '', { query }));
step('GET a channel with subscribers', async server => {
  const channel = `presence-info-${unique}`, peers = await pair(server, channel, ['1', '1', '2']);
  const seen = [
    await rest(server, 'GET', `/channels/${channel}`, '', { query: { info: 'user_count,subscription_count' } }), await rest(server, 'GET', `/channels/${channel}/users`),
    await rest(server, 'GET', '/channels', '', { query: { filter_by_prefix: channel, info: 'user_count' } }), await rest(server, 'GET', '/channels', '', { query: { filter_by_prefix: channel } }),
  ];
  peers.forEach(peer => peer.close());
  return seen;
});
for (const [what, options] of Object.entries({
  'a wrong signature': { spoil: query => query.replace(/.$/, digit => digit === '0' ? '1' : '0') }, 'an old timestamp': { change: query => ({ ...query, auth_timestamp: 1000000000 }) }, 'a timestamp of 590 seconds ago': { change: query => ({ ...query, auth_timestamp: query.auth_timestamp - 590 }) },
  'another key': { change: query => ({ ...query, auth_key: 'other' }) }, 'version 2': { change: query => ({ ...query, auth_version: '2.0' }) }, 'no version': { change: ({ auth_version, ...query }) => query }, 'no timestamp': { change: ({ auth_timestamp, ...query }) => query },
  'no digest': { change: ({ body_md5, ...query }) => query }, 'a wrong digest': { change: query => ({ ...query, body_md5: '0'.repeat(32) }) }, 'another parameter': { query: { zebra: '1' } }, 'upper-case names': { change: query => Object.fromEntries(Object.entries(query).map(([name, value]) => [name.toUpperCase(), value])) },
})) step(`POST events with ${what}`, server => rest(server, 'POST', '/events', event(), options));

// Events from the backend, and cache channels.
step('an event excludes a client', async server => {
  const channel = `except-${unique}`, peers = [await new Peer(server).open(), await new Peer(server).open()];
  for (const peer of peers) await peer.round(peer.subscribe(channel, { auth: '' }));
  await rest(server, 'POST', '/events', JSON.stringify({ name: 'e', channel, data: '{"a":"ä"}', socket_id: peers[0].id }));
  await peers[1].until(() => peers[1].events.length > 0);
  const seen = [await peers[0].round(), await peers[1].round()];
  peers.forEach(peer => peer.close());
  return seen;
});
for (const prefix of ['cache-', 'private-cache-', 'presence-cache-']) {
  step(`the last event of ${prefix}`, async server => {
    const channel = `${prefix}last-${unique}`, options = prefix.startsWith('presence-') ? { data: presence('1') } : {};
    const one = await new Peer(server).open();
    const miss = await one.round(one.subscribe(channel, options));
    await rest(server, 'POST', '/events', JSON.stringify({ name: 'e', channel, data: '{}' }));
    await one.until(() => one.events.length > 0);
    const live = await one.round();
    one.close();
    const two = await new Peer(server).open();
    const last = await two.round(two.subscribe(channel, options));
    const info = await rest(server, 'GET', `/channels/${channel}`, '', { query: { info: 'cache' } });
    if (info.body?.cache) info.body.cache.ttl = typeof info.body.cache.ttl;
    two.close();
    return { miss, live, last, info };
  });
}

/** Returns an observation without what differs between any two runs: identifiers of sockets, and texts for people. */
function normal(seen) {
  const plain = JSON.stringify(seen, (key, value) => {
    if (key === 'data' && typeof value === 'string') { try { value = { json: JSON.parse(value) }; } catch {} }
    if (key === 'message' || key === 'error') return 'a text';
    if (value && typeof value === 'object' && !Array.isArray(value)) return Object.fromEntries(Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1));
    return value;
  });
  return plain.replace(/\d+\.\d+(?=["\\])/g, 'SOCKET');
}

const servers = process.argv.slice(2);
if (servers.length !== 2) throw new Error('usage: node differences.mjs HOST:PORT HOST:PORT');
let equal = 0;
for (const [name, run] of steps) {
  unique++;
  const [one, two] = await Promise.all(servers.map(server => run(server).then(normal, error => `failed: ${error.message}`)));
  if (one === two) { equal++; continue; }
  console.log(`${name}\n  ${servers[0]}: ${one}\n  ${servers[1]}: ${two}`);
}
console.log(`${equal} of ${steps.length} steps are equal`);
process.exit(0);
