// Runs pusher-js's own integration specs, which its npm package contains: node specs.cjs true|false
//
// The argument is forceTLS. The specs import the library's sources by the aliases of its webpack configuration. Here
// these names lead to the built library and to the functions below. The clients of the specs connect to this server
// instead of Pusher's, and the site of `support.mjs` is their backend.
//
// The directory has four more files, which cannot run against another server: cluster_config_spec.js needs Pusher's host
// names, and falling_back_spec.js, timeout_configuration_spec.js and transport_lists_spec.js need SockJS or HTTP
// transports beside WebSocket.
'use strict';
const Module = require('node:module');
const path = require('node:path');
const Jasmine = require('jasmine');
const Pusher = require('pusher-js');

const directory = path.join(path.dirname(require.resolve('pusher-js/package.json')), 'spec/javascripts/integration/core/pusher_spec');
const forceTLS = process.argv[2] === 'true';

// The specs change these settings.
const Defaults = {};
const Integration = {
  describe: (name, body) => describe(`${name} (integration)`, body),
  getRandomName: prefix => `${prefix}_${Date.now()}_${Math.floor(Math.random() * 1_000_000)}`,
  sendAPIMessage({ url, channel, event, data }) {
    const encode = text => encodeURIComponent(Buffer.from(text).toString('base64'));
    fetch(`${url}/2?channel=${encode(channel)}&event=${encode(event)}&data=${encode(JSON.stringify(data))}`);
  },
};

let connect;
class LocalPusher extends Pusher {
  constructor(key, options) {
    super('specs', { ...options, ...connect(), forceTLS: options.forceTLS, channelAuthorization: { endpoint: Defaults.authEndpoint, transport: 'ajax' } });
  }
}

const shims = {
  pusher_integration: LocalPusher,
  testenv: 'node',
  integration: Integration,
  runtime: { default: Pusher.Runtime },
  'core/defaults': { default: Defaults },
  'core/util': { default: {} },
  'core/utils/timers': {},
  'core/utils/collections': {
    objectApply: (object, call) => Object.entries(object).forEach(([key, value]) => call(value, key, object)),
  },
};
const load = Module._load;
Module._load = (request, parent, isMain) => shims[request] ?? load(request, parent, isMain);

async function main() {
  const { startServer, startSite, clientOptions } = await import('./support.mjs');
  const server = await startServer();
  const site = await startSite(server, 'specs');
  Integration.API_URL = site.url;
  connect = () => clientOptions(server, null);

  const runner = new Jasmine();
  runner.exitOnCompletion = false;
  runner.randomizeTests(false);
  runner.env.configure({ failSpecWithNoExpectations: false });
  runner.clearReporters();
  let passed = 0;
  const failures = [];
  let count = 0;
  runner.addReporter({
    jasmineStarted: ({ totalSpecsDefined }) => { count = totalSpecsDefined; },
    specDone({ fullName, status, failedExpectations }) {
      if (status === 'passed') passed++;
      else failures.push(`${fullName}: ${status} ${failedExpectations.map(({ message }) => message).join('; ')}`);
    },
  });
  runner.env.describe('pusher-js', () => require(directory)([{ transport: 'ws', forceTLS }]));
  const { overallStatus } = await runner.execute();
  site.close();
  await server.stop();
  console.log(`pusher-js's specs on ${process.env.UPROAR_BACKEND}, forceTLS ${forceTLS}: ${passed} of ${count} specs pass`);
  for (const failure of failures) console.log(`  failed: ${failure}`);
  process.exit(overallStatus === 'passed' && count > 0 && passed === count ? 0 : 1);
}

main().catch(error => { console.error(error); process.exit(1); });
