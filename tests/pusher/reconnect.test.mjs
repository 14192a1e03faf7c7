// pusher-js over the end of connections and of the server.
import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import Pusher from 'pusher-js';
import { appsFile, backendFor, clientOptions, event, names, startServer, startSite, subscribed, unique, until } from './support.mjs';

const directory = mkdtempSync(path.join(tmpdir(), 'uproar-pusher-'));
const file = path.join(directory, 'apps.toml');
copyFileSync(appsFile, file);

/** Returns a free port. The server listens on it again and again. */
async function freePort() {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address();
  listener.close();
  await once(listener, 'close');
  return port;
}

/** A server that can be started again on its port, with a site and clients. */
class Rig {
  clients = [];

  static async start(options = []) {
    const rig = new Rig();
    rig.port = await freePort();
    rig.options = options;
    await rig.restart();
    rig.site = await startSite(rig.server);
    rig.backend = backendFor(rig.server);
    return rig;
  }

  async restart() {
    this.server = await startServer({ port: this.port, file, options: this.options });
  }

  async connected(options) {
    const client = new Pusher('stock', clientOptions(this.server, this.site, options));
    client.states = [];
    client.connection.bind('state_change', ({ current }) => client.states.push(current));
    this.clients.push(client);
    await until(() => client.connection.state === 'connected', 'the client connects');
    return client;
  }

  async end() {
    for (const client of this.clients) client.disconnect();
    this.site.close();
    await this.server.stop();
  }
}

const rig = await Rig.start();
const { backend } = rig;
after(async () => {
  await rig.end();
  rmSync(directory, { recursive: true });
});

describe("the server's end", { concurrency: true }, () => ['SIGTERM', 'SIGKILL'].forEach(signal => {
  test(`clients come back with their channels after ${signal}`, async () => {
    const rig = await Rig.start();
    const { backend } = rig;
    const [client, other] = [await rig.connected({ user: 'ann' }), await rig.connected({ user: 'bob' })];
    client.signin();
    const mail = [];
    client.user.bind('mail', data => mail.push(data));
    await until(() => client.user.serverToUserChannel?.subscribed, 'the client is signed in');
    const channels = [];
    for (const prefix of ['', 'private-', 'private-encrypted-']) channels.push(await subscribed(client, unique(prefix)));
    const present = await subscribed(client, unique('presence-'));
    await subscribed(other, present.name);
    const connections = [client, other].map(({ connection }) => ({ connection, before: connection.socket_id }));

    // pusher-js tries once after a second. If it finds no server then, it waits for 15 seconds.
    await rig.server.stop(signal);
    await rig.restart();
    const isBack = ({ connection, before }) => connection.state === 'connected' && connection.socket_id !== before;
    await until(() => connections.every(isBack), 'the clients come back');
    await until(() => [...channels, present].every(({ subscribed }) => subscribed), 'all subscriptions are back');
    await until(() => present.members.count === 2, 'both members are back');
    for (const channel of channels) {
      await backend.trigger(channel.name, 'after', {});
      await event(channel, 'after');
    }
    await until(() => client.user.serverToUserChannel?.subscribed, 'the client is signed in again');
    await backend.sendToUser('ann', 'mail', { n: 1 });
    await until(() => mail.length === 1, 'the user gets the event');
    await rig.end();
  });
}));

test('clients move to a new server that takes over', async () => {
  const rig = await Rig.start(['--takeover', 'on']);
  const client = await rig.connected();
  const channel = await subscribed(client, unique());
  const { server: old, backend } = rig;
  const before = client.connection.socket_id;
  await rig.restart();
  await old.stop();
  await until(() => client.connection.state === 'connected' && client.connection.socket_id !== before, 'the client moves');
  await until(() => channel.subscribed, 'the subscription is back');
  await backend.trigger(channel.name, 'after', {});
  await event(channel, 'after');
  assert.equal(client.states.includes('unavailable'), false);
  await rig.end();
});

test('a client without a connection for a moment comes back', async () => {
  const client = await rig.connected();
  const channel = await subscribed(client, unique());
  client.connection.connection.transport.socket._stream.destroy();
  await until(() => client.states.includes('connecting'), 'the client notices');
  await until(() => client.connection.state === 'connected' && channel.subscribed, 'the client comes back');
  await backend.trigger(channel.name, 'after', {});
  await event(channel, 'after');
  assert.equal(names(channel).filter(name => name === 'after').length, 1);
});

test('the applications can change while the server runs', async () => {
  const client = await rig.connected();
  const channel = await subscribed(client, unique());
  const text = readFileSync(file, 'utf8');
  // Another secret: the client stays, and only the new secret signs.
  writeFileSync(file, text.replace('5f2b9c1e7d', 'new-secret'));
  rig.server.kill('SIGHUP');
  const renewed = backendFor(rig.server, 'stock', { secret: 'new-secret' });
  const works = async backend => backend.trigger(channel.name, 'renewed', {}).then(() => true, ({ status }) => {
    assert.equal(status, 401);
    return false;
  });
  while (!await works(renewed)) await new Promise(resolve => setTimeout(resolve, 20));
  assert.equal(await works(backend), false);
  await event(channel, 'renewed');
  // Without the application its clients are closed for good.
  writeFileSync(file, text.replace('secret = "5f2b9c1e7d"', 'secret = "5f2b9c1e7d"\nenabled = false'));
  rig.server.kill('SIGHUP');
  await until(() => client.connection.state === 'disconnected', 'the client is closed');
  writeFileSync(file, text);
  rig.server.kill('SIGHUP');
  await until(() => {
    // A refused client does not try again by itself.
    if (client.connection.state === 'disconnected') client.connect();
    return channel.subscribed;
  }, 'the client is back');
});
