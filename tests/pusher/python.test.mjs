// `clients.py`: the libraries for Python.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { World, apps, here, masterKey } from './support.mjs';

const world = await World.create();

test("PyPI's pusher, Pysher and asyncpusher", async () => {
  const certificate = `${process.env.CERTIFICATES}/cert.pem`;
  const env = {
    ...process.env, PUSHER_PORT: world.server.port, PUSHER_SECURE_PORT: world.server.securePort,
    PUSHER_SECRET: apps.stock.secret, PUSHER_MASTER_KEY: masterKey, SSL_CERT_FILE: certificate, WEBSOCKET_CLIENT_CA_BUNDLE: certificate,
  };
  const python = spawn(process.env.PYTHON, [path.join(here, 'clients.py')], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [python.stdout, python.stderr]) stream.on('data', chunk => { output += chunk; });
  const [code] = await once(python, 'close');
  console.log(output);
  assert.equal(code, 0, output);
});
