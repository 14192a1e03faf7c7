// Runs the checks in npm's `ws` and `undici` and in Debian's Chromium; in `ws` with and without compression.
import { chromium } from 'playwright-core';
import { WebSocket as Undici } from 'undici';
import Ws from 'ws';
import { checks } from './checks.mjs';

const { ECHO_URL: echo, CHAT_URL: chat } = process.env;
const reconnects = Number(process.env.RECONNECTS);
const deflate = 'permessage-deflate';
let passed = 0, failed = 0;

async function report(name, run) {
  try {
    const { count, failures } = await run;
    console.log(`  ${name}: ${count - failures.length} of ${count}`);
    for (const failure of failures.slice(0, 10)) console.log(`    failed: ${failure}`);
    passed += count - failures.length;
    failed += failures.length;
  } catch (error) {
    console.log(`  ${name}: ${error.stack}`);
    failed++;
  }
}

for (const perMessageDeflate of [true, false]) {
  // Also compress short messages.
  const options = { perMessageDeflate: perMessageDeflate && { threshold: 0 } };
  const open = url => new Ws(url, options);
  const extensions = perMessageDeflate ? deflate : '';
  await report(`ws, ${extensions || 'plain'}`, checks({ open, echo, chat, extensions, reconnects }));
}
await report('undici', checks({ open: url => new Undici(url), echo, chat, extensions: null, reconnects }));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    // Chromium does not trust the test's certificate; run checks that with openssl.
    '--ignore-certificate-errors',
  ],
});
const page = await browser.newPage();
await report('Chromium', page.evaluate(`(${checks})({
  open: url => new WebSocket(url), echo: ${JSON.stringify(echo)}, chat: ${JSON.stringify(chat)},
  extensions: ${JSON.stringify(deflate)}, reconnects: ${reconnects},
})`));
await browser.close();

console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
