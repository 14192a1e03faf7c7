// What the server refuses: connections, client events and frames. With pusher-js, and with `ws` for what it never sends.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket from 'ws';
import { World, backendFor, event, names, subscribed, unique, until } from './support.mjs';

const world = await World.create();

/** Opens a WebSocket below /app. `frames` collects what the server sends. */
function open(path, options) {
  const socket = new WebSocket(`ws://localhost:${world.server.port}${path}`, options);
  socket.frames = [];
  socket.on('message', data => socket.frames.push(data.toString()));
  return socket;
}

/** Opens a WebSocket to the application and waits for the first frame. */
async function opened() {
  const socket = open('/app/stock?protocol=7&client=test&version=1');
  await until(() => socket.frames.length > 0, 'the connection is established');
  return socket;
}

const frame = (socket, index) => until(() => socket.frames[index], `frame ${index} arrives`);

for (const [key, code] of [['unknown', 4001], ['disabled', 4003], ['one-origin', null]]) {
  test(`the application ${key} ${code ? `is refused with ${code}` : 'takes clients without an origin'}`, async () => {
    const client = world.client({ key });
    if (!code) return until(() => client.connection.state === 'connected', 'the client connects');
    await until(() => client.connection.state === 'disconnected', 'the client gives up');
    assert.deepEqual(client.errors.map(({ code }) => code), [code]);
    assert.notEqual(client.errors[0].message, '');
  });
}

test('pages of other origins are refused', async () => {
  const refused = open('/app/one-origin?protocol=7', { origin: 'https://evil.example' });
  const [code] = await once(refused, 'close');
  assert.equal(code, 4009);
  assert.equal(JSON.parse(refused.frames[0]).data.code, 4009);
  const allowed = open('/app/one-origin?protocol=7', { origin: 'https://shop.example' });
  assert.match(await frame(allowed, 0), /connection_established/);
  allowed.close();
});

test('an application over its limit of connections takes clients again later', async () => {
  const first = await world.connected({ key: 'single' });
  const second = world.client({ key: 'single', unavailableTimeout: 500 });
  await until(() => second.connection.state === 'unavailable', 'the second client waits');
  first.disconnect();
  await until(() => second.connection.state === 'connected', 'the second client connects');
});

test('versions of the protocol', async () => {
  for (const [query, code] of [
    ['?protocol=4', 4007], ['?protocol=8', 4007], ['?protocol=x', 4006], ['?protocol=', 4006], ['', 4008], ['?client=js', 4008],
  ]) {
    const socket = open(`/app/stock${query}`);
    const [closed] = await once(socket, 'close');
    assert.equal(closed, code, query);
    const { event, data } = JSON.parse(socket.frames[0]);
    assert.deepEqual([event, data.code, socket.frames.length], ['pusher:error', code, 1]);
  }
  for (const version of [5, 6, 7]) {
    const socket = open(`/app/stock?client=x&protocol=${version}`);
    const { event, data } = JSON.parse(await frame(socket, 0));
    assert.equal(event, 'pusher:connection_established');
    assert.match(JSON.parse(data).socket_id, /^\d+\.\d+$/);
    assert.ok(JSON.parse(data).activity_timeout > 0);
    socket.close();
  }
  const [closed] = await once(open('/app/'), 'close');
  assert.equal(closed, 4005);
});

test('frames on the wire', async () => {
  const socket = await opened();
  const name = unique();
  for (const [sent, answer] of [
    [{ event: 'pusher:ping', data: {} }, { event: 'pusher:pong', data: '{}' }],
    [{ event: 'pusher:ping', data: '' }, { event: 'pusher:pong', data: '{}' }],
    [
      { event: 'pusher:subscribe', data: { channel: name } },
      { event: 'pusher_internal:subscription_succeeded', channel: name, data: '{}' },
    ],
  ]) {
    const index = socket.frames.length;
    socket.send(JSON.stringify(sent));
    assert.deepEqual(JSON.parse(await frame(socket, index)), answer);
  }
  const index = socket.frames.length;
  await world.backend.trigger(name, 'order', { total: 1 });
  assert.deepEqual(JSON.parse(await frame(socket, index)), { event: 'order', channel: name, data: '{"total":1}' });
  socket.close();
});

test('wrong frames are answered with errors', async () => {
  const socket = await opened();
  for (const wrong of [
    'nonsense', '[]', '{}', '1', '""', '{"event":7}', '{"event":"unknown"}', '{"event":"pusher:subscribe"}',
    '{"event":"pusher:subscribe","data":{}}', '{"event":"pusher:subscribe","data":{"channel":7}}',
    '{"event":"pusher:subscribe","data":{"channel":"private-x","auth":7}}',
    '{"event":"pusher:subscribe","data":{"channel":"presence-x","auth":"","channel_data":{}}}',
    '{"event":"pusher:unsubscribe","data":"x"}', '{"event":"client-x","channel":7,"data":{}}',
  ]) {
    const index = socket.frames.length;
    socket.send(wrong);
    const { event, data } = JSON.parse(await frame(socket, index));
    assert.equal(event, 'pusher:error', wrong);
    assert.ok(data.message.length > 0 && data.code !== null, wrong);
  }
  const index = socket.frames.length;
  socket.send(JSON.stringify({ event: 'pusher:ping' }));
  assert.match(await frame(socket, index), /pusher:pong/);
  socket.send(Buffer.from([1, 2, 3]));
  assert.match(await frame(socket, index + 1), /pusher:error/);
  socket.close();
});

/** Sends a client event and returns the code of the error that it is answered with. */
async function refusal(client, channel, name, data) {
  const before = client.errors.length;
  client.send_event(name, data, channel);
  await until(() => client.errors.length > before, `${name} is refused`);
  assert.notEqual(client.errors.at(-1).message, '');
  return client.errors.at(-1).code;
}

test('client events are refused with 4301, and the connection stays', async () => {
  const client = await world.connected();
  const [open, closed] = [await subscribed(client, unique()), await subscribed(client, unique('private-'))];
  await subscribed(client, unique('private-encrypted-'));
  const encrypted = client.allChannels().at(-1).name;
  for (const [channel, name, data] of [
    [open.name, 'client-x', {}], [encrypted, 'client-x', {}], [unique('private-'), 'client-x', {}], ['private- ', 'client-x', {}],
    [closed.name, `client-${'x'.repeat(200)}`, {}], [closed.name, 'client-x', 'x'.repeat(10_241)],
  ]) {
    assert.equal(await refusal(client, channel, name, data), 4301, `${channel} ${name}`);
  }
  assert.equal(client.connection.state, 'connected');
});

test('an application without client events refuses them', async () => {
  const client = await world.connected({ key: 'silent' });
  const channel = await subscribed(client, unique('private-'));
  assert.equal(await refusal(client, channel.name, 'client-x', {}), 4301);
});

test('client events over the rate are refused, and later ones pass', async () => {
  const name = unique('private-');
  const [one, other] = [await world.connected({ key: 'small' }), await world.connected({ key: 'small' })];
  const [sender, receiver] = [await subscribed(one, name), await subscribed(other, name)];
  // Far more than pass at 3 per second, however slow the machine is.
  for (let n = 0; n < 200; n++) sender.trigger('client-x', { n });
  await until(() => one.errors.length > 0, 'events are refused');
  assert.deepEqual([...new Set(one.errors.map(({ code }) => code))], [4301]);
  const passed = () => names(receiver).filter(name => name === 'client-x').length;
  const settled = () => passed() + one.errors.length === 200;
  await until(settled, 'each event passes or is refused');
  assert.ok(passed() >= 3, `${passed()} pass`);
  const before = passed();
  for (let tries = 0; passed() === before && tries < 100; tries++) {
    sender.trigger('client-x', {});
    await new Promise(resolve => setTimeout(resolve, 100));
  }
  assert.ok(passed() > before, 'none passes later');
  assert.equal(one.connection.state, 'connected');
});

test('the application limits the size of events', async () => {
  const client = await world.connected({ key: 'small' });
  const channel = await subscribed(client, unique('private-'));
  assert.equal(await refusal(client, channel.name, 'client-x', 'x'.repeat(1_001)), 4301);
  await assert.rejects(backendFor(world.server, 'small').trigger(channel.name, 'x', 'x'.repeat(1_001)), { status: 413 });
  await backendFor(world.server, 'small').trigger(channel.name, 'small', 'x'.repeat(1_000));
  await event(channel, 'small');
});

test('the client asks an idle server, and the server answers', async () => {
  const client = await world.connected({ activityTimeout: 200, pongTimeout: 20_000 });
  const pongs = [];
  client.connection.bind('message', ({ event }) => event === 'pusher:pong' && pongs.push(event));
  await until(() => pongs.length >= 3, 'pongs arrive');
  assert.equal(client.connection.state, 'connected');
});
