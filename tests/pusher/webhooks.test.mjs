// Webhooks, checked by npm's and PyPI's `pusher`.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { World, appsFile, backendFor, recorded, subscribed, unique, until } from './support.mjs';

const received = [];
let failures = 0;
const hook = http.createServer(async (request, response) => {
  let rawBody = '';
  for await (const chunk of request) rawBody += chunk;
  received.push({ path: request.url, headers: request.headers, rawBody, refused: failures > 0 });
  response.writeHead(failures-- > 0 ? 500 : 200).end();
});
hook.listen(0, '127.0.0.1');
await once(hook, 'listening');

const directory = mkdtempSync(path.join(tmpdir(), 'uproar-pusher-'));
const file = path.join(directory, 'apps.toml');
const url = `http://127.0.0.1:${hook.address().port}`;
writeFileSync(file, readFileSync(appsFile, 'utf8').replace('subscription-counts = true', `$&

[[app.webhook]]
url = "${url}/all"
events = [
  "channel_occupied", "channel_vacated", "member_added", "member_removed", "client_event", "cache_miss", "subscription_count",
]

[[app.webhook]]
url = "${url}/members"
events = ["member_added", "member_removed"]
`));
const world = await World.create({ file });
const backend = backendFor(world.server, 'counted');
after(() => {
  hook.closeAllConnections();
  hook.close();
  rmSync(directory, { recursive: true });
});

const events = (channel, at = '/all') => received
  .filter(({ path, refused }) => path === at && !refused)
  .flatMap(request => backend.webhook(request).getEvents())
  .filter(event => event.channel === channel);
const has = (channel, expected, at) => until(
  () => events(channel, at).some(event => Object.entries(expected).every(([name, value]) => event[name] === value)),
  `a webhook with ${JSON.stringify(expected)}`,
);

test('channels, members and client events', async () => {
  const name = unique('presence-');
  const [one, other] = [await world.connected({ key: 'counted', user: 'ann' }), await world.connected({ key: 'counted', user: 'bob' })];
  const channel = await subscribed(one, name);
  await has(name, { name: 'channel_occupied' });
  await has(name, { name: 'member_added', user_id: 'ann' });
  await subscribed(other, name);
  await has(name, { name: 'member_added', user_id: 'bob' }, '/members');
  channel.trigger('client-typing', { n: 1 });
  await has(name, { name: 'client_event', event: 'client-typing', user_id: 'ann', socket_id: one.connection.socket_id });
  assert.deepEqual(JSON.parse(events(name).find(event => event.name === 'client_event').data), { n: 1 });
  other.disconnect();
  await has(name, { name: 'member_removed', user_id: 'bob' });
  one.unsubscribe(name);
  await has(name, { name: 'channel_vacated' });
  const order = events(name).map(({ name, user_id }) => [name, user_id].join(' ').trim()).filter(event => event !== 'client_event ann');
  assert.deepEqual(order.filter(event => event.startsWith('member')), ['member_added ann', 'member_added bob', 'member_removed bob', 'member_removed ann']);
  assert.deepEqual(order.filter(event => event.startsWith('channel')), ['channel_occupied', 'channel_vacated']);
  assert.ok(events(name, '/members').every(event => event.name.startsWith('member_')));
});

test('a reload of a page causes none', async () => {
  const name = unique('presence-');
  const before = await world.connected({ key: 'counted', user: 'ann' });
  await subscribed(before, name);
  await has(name, { name: 'member_added' });
  before.disconnect();
  const again = await world.connected({ key: 'counted', user: 'ann' });
  await subscribed(again, name);
  again.unsubscribe(name);
  await has(name, { name: 'channel_vacated' });
  assert.deepEqual(events(name).map(({ name }) => name).sort(), ['channel_occupied', 'channel_vacated', 'member_added', 'member_removed']);
});

test('misses of caches and counts of subscribers', async () => {
  const [open, cache] = [unique(), unique('cache-')];
  const client = await world.connected({ key: 'counted' });
  recorded(client, open);
  recorded(client, cache);
  await has(open, { name: 'subscription_count', subscription_count: 1 });
  await has(cache, { name: 'cache_miss' });
});

test('the libraries accept the requests', async () => {
  for (const request of received) {
    const webhook = backend.webhook(request);
    assert.ok(webhook.isValid(), request.rawBody);
    assert.equal(request.headers['content-type'], 'application/json');
    assert.ok(Math.abs(webhook.getTime() - Date.now()) < 300_000);
    assert.equal(backendFor(world.server).webhook(request).isValid(), false);
  }
  const { rawBody, headers } = received[0];
  const code = 'import sys, pusher; print(len(pusher.Pusher("2", "counted", sys.argv[1]).validate_webhook(*sys.argv[2:])["events"]))';
  const words = [backend.config.token.secret, 'counted', headers['x-pusher-signature'], rawBody];
  const { stdout } = await promisify(execFile)(process.env.PYTHON, ['-c', code, ...words]);
  assert.equal(Number(stdout), JSON.parse(rawBody).events.length);
});

test('a webhook that fails is sent again', async () => {
  const name = unique();
  failures = 1;
  recorded(await world.connected({ key: 'counted' }), name);
  await has(name, { name: 'channel_occupied' });
  assert.ok(received.some(({ refused }) => refused));
});
