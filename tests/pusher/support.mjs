// Shared code of the tests with stock Pusher libraries: a server, the backend of a web site that authorizes its users,
// and clients.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after } from 'node:test';
import Backend from 'pusher';
import Pusher from 'pusher-js';

export const here = path.dirname(fileURLToPath(import.meta.url));
/** The file with the applications. */
export const appsFile = path.join(here, 'apps.toml');
/** Key with which the backend encrypts events. */
export const masterKey = Buffer.alloc(32, 'uproar').toString('base64');

/** Credentials of the applications, by key. */
export const apps = Object.fromEntries(readFileSync(appsFile, 'utf8').split('[[app]]').slice(1).map(text => {
  const [id, key, secret] = ['id', 'key', 'secret'].map(name => new RegExp(`^${name} = "(.*)"`, 'm').exec(text)[1]);
  return [key, { id, key, secret }];
}));

/**
 * Starts the server on free ports, or on `port`. Returns the ports of its plain and TLS listeners and the functions
 * `kill`, which sends a signal, and `stop`, which also waits for the end.
 */
export async function startServer({ port = 0, file = appsFile, options = [] } = {}) {
  const { SERVER_BIN: binary, UPROAR_BACKEND: backend, CERTIFICATES: certificates } = process.env;
  const server = spawn(binary, [
    '--listen', `127.0.0.1:${port}`, '--listen', 'tls:127.0.0.1:0',
    '--tls-cert', `${certificates}/cert.pem`, '--tls-key', `${certificates}/key.pem`,
    // More workers than cores, so that the clients of a channel are on different ones.
    '--app', 'pusher', '--pusher-apps', file, '--backend', backend, '--workers', '4', '--drain-seconds', '0', ...options,
  ], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [server.stdout, server.stderr]) stream.on('data', chunk => { output += chunk; });
  const exited = once(server, 'exit');
  const kill = signal => server.kill(signal);
  const stop = async (signal = 'SIGTERM') => {
    if (server.exitCode === null && server.signalCode === null) kill(signal);
    const [code] = await exited;
    if (signal === 'SIGTERM') assert.equal(code, 0, output);
  };
  const ports = () => [/listening on 127.0.0.1:(\d+)/, /listening on tls:127.0.0.1:(\d+)/].map(line => Number(line.exec(output)?.[1]));
  await Promise.race([
    until(() => ports().every(Boolean), 'the server listens'),
    exited.then(([code]) => Promise.reject(new Error(`${binary} ended with code ${code}:\n${output}`))),
  ]).catch(error => { kill('SIGKILL'); throw error; });
  const [plain, secure] = ports();
  return { port: plain, securePort: secure, kill, stop };
}

/** Waits until a condition holds. Fails after 30 seconds. */
export async function until(condition, what) {
  for (let tries = 1_500; tries > 0; tries--) {
    const value = condition();
    if (value) return value;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  throw new Error(`it does not happen: ${what}`);
}

/** Returns npm's `pusher` for an application. */
export function backendFor(server, key = 'stock', options = {}) {
  const { id, secret } = apps[key];
  return new Backend({
    appId: id, key, secret, host: 'localhost', port: server.port, useTLS: false,
    encryptionMasterKeyBase64: masterKey, ...options,
  });
}

/**
 * Starts the backend of a web site. It authorizes every user, but not for channels with `forbidden` in their names.
 *
 * POST /auth and /user-auth answer pusher-js, for the application in the header X-App or `key`. The user is in the header
 * X-User and is by default the socket identifier. GET /v2/send/N triggers the event of pusher-js's specs. GET /FILE
 * returns a file of the installed packages.
 */
export async function startSite(server, key = 'stock') {
  const site = { backends: {}, requests: [], masterKey };
  const backend = name => site.backends[`${name} ${site.masterKey}`] ??= backendFor(server, name, {
    encryptionMasterKeyBase64: site.masterKey,
  });
  const listener = http.createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const url = new URL(request.url, 'http://localhost');
    const headers = {
      'Access-Control-Allow-Origin': '*', 'Access-Control-Allow-Headers': '*',
      'Access-Control-Allow-Methods': 'GET,POST,OPTIONS',
    };
    const respond = (status, type, text) => response.writeHead(status, { ...headers, 'Content-Type': type }).end(text);
    try {
      const fields = new URLSearchParams(body);
      const { 'x-app': app = key, 'x-user': user } = request.headers;
      if (request.method === 'OPTIONS') {
        respond(200, 'text/plain', '');
      } else if (['/auth', '/user-auth'].includes(url.pathname)) {
        site.requests.push(Object.fromEntries(fields));
        const answer = authorize(backend(app), url.pathname, fields, user);
        respond(answer ? 200 : 403, 'application/json', JSON.stringify(answer ?? {}));
      } else if (url.pathname.startsWith('/v2/send/')) {
        const [channel, event, data] = ['channel', 'event', 'data'].map(name => Buffer.from(url.searchParams.get(name), 'base64').toString());
        await backend(app).trigger(channel, event, JSON.parse(data));
        respond(200, 'text/javascript', '');
      } else if (url.pathname === '/') {
        respond(200, 'text/html', '<!DOCTYPE html><title>site</title>');
      } else {
        const type = url.pathname.endsWith('js') ? 'text/javascript' : 'text/plain';
        respond(200, type, readFileSync(path.join(here, 'node_modules', url.pathname)));
      }
    } catch (error) {
      respond(500, 'text/plain', error.stack);
    }
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  site.url = `http://localhost:${listener.address().port}`;
  site.close = () => { listener.closeAllConnections(); listener.close(); };
  return site;
}

function authorize(backend, at, fields, user) {
  const socket = fields.get('socket_id');
  const id = user ?? socket;
  const info = { name: `Integration ${id}`, email: `integration-${id}@example.com` };
  if (at === '/user-auth') return id === 'forbidden' ? null : backend.authenticateUser(socket, { id, user_info: info });
  const channel = fields.get('channel_name');
  if (channel.includes('forbidden')) return null;
  const needsUser = channel.startsWith('presence-') && !channel.includes('signed-in');
  return backend.authorizeChannel(socket, channel, needsUser ? { user_id: id, user_info: info } : undefined);
}

/** Returns the options with which pusher-js connects to the server, with a user's identifier or its own socket's. */
export function clientOptions(server, site, { user, ...options } = {}) {
  const headers = user === undefined ? {} : { 'X-User': user };
  return {
    cluster: '', wsHost: 'localhost', wsPort: server.port, wssPort: server.securePort, forceTLS: false,
    enabledTransports: ['ws'],
    channelAuthorization: site && { endpoint: `${site.url}/auth`, transport: 'ajax', headers },
    userAuthentication: site && { endpoint: `${site.url}/user-auth`, transport: 'ajax', headers },
    ...options,
  };
}

/** A server, a site and clients for the tests of a file. They end after the last test. */
export class World {
  #clients = [];

  static async create(options) {
    const world = new World();
    world.server = await startServer(options);
    world.site = await startSite(world.server);
    world.backend = backendFor(world.server);
    after(() => world.end());
    return world;
  }

  async end() {
    for (const client of this.#clients) client.disconnect();
    this.site.close();
    await this.server.stop();
  }

  /** Creates a client. `errors` collects the errors of its connection. */
  client({ key = 'stock', ...options } = {}) {
    const settings = clientOptions(this.server, this.site, options);
    if (key !== 'stock') settings.channelAuthorization.headers['X-App'] = key;
    const client = new Pusher(key, settings);
    client.errors = [];
    client.connection.bind('error', error => client.errors.push(error.error?.data ?? error.data ?? error));
    this.#clients.push(client);
    return client;
  }

  /** Creates a client and waits until it is connected. */
  async connected(options) {
    const client = this.client(options);
    await until(() => client.connection.state === 'connected', 'the client connects');
    return client;
  }
}

/** Subscribes and waits for the answer. `channel.log` collects the channel's later events as [name, data]. */
export async function subscribed(client, name) {
  const channel = recorded(client, name);
  await until(() => channel.subscribed, `${name} is subscribed to`);
  return channel;
}

/** Subscribes without waiting. */
export function recorded(client, name) {
  const channel = client.subscribe(name);
  channel.log = [];
  channel.bind_global((event, data) => channel.log.push([event, data]));
  return channel;
}

/** Asks for a channel whose name pusher-js does not accept. Returns the data of the error. */
export async function refusal(client, name) {
  const error = new Promise(resolve => client.connection.bind('message', message => {
    if (message.event === 'pusher:subscription_error' && message.channel === name) resolve(message.data);
  }));
  client.send_event('pusher:subscribe', { channel: name, auth: '' });
  return error;
}

/** Waits for an event and returns its data. */
export async function event(channel, name) {
  const [, data] = await until(() => channel.log.find(([event]) => event === name), `${channel.name} gets ${name}`);
  return data;
}

/** Returns the names of a channel's events. */
export const names = channel => channel.log.map(([name]) => name);

let last = 0;
/** Returns a channel name that no other test has. */
export const unique = (prefix = '') => `${prefix}test-${process.pid}-${++last}`;
