// Shared code of the browser tests and the screenshot: a server, a proxy that can be cut, and pages in Chromium.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = path.dirname(fileURLToPath(import.meta.url));
export const repository = path.resolve(here, '../..');

/**
 * Starts the server on a free port. Returns its address as { host, port } and the functions `stop` and `signal`. With
 * --admin the result has the admin address as `admin`, and with --tls-cert the address of the TLS listener as `secure`.
 */
export async function startServer(options = []) {
  const binary = process.env.SERVER_BIN ?? path.join(repository, 'target/release/uproar');
  const backend = process.env.UPROAR_BACKEND ?? 'auto';
  const server = spawn(binary, ['--listen', '127.0.0.1:0', '--backend', backend, ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = once(server, 'exit');
  const stop = async () => {
    if (server.exitCode === null && server.signalCode === null) server.kill('SIGTERM');
    await exited;
  };
  let said = '';
  let timer;
  const address = await new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no "listening on" line within 20 s:\n${said}`)), 20_000);
    const hear = chunk => {
      // Removes the colour codes of the log.
      said += chunk.toString().replace(/\x1b\[[0-9;]*m/g, '');
      const found = /listening on (?:\w+:\/\/)?([\d.]+):(\d+)/.exec(said);
      const admin = /admin on http:\/\/([\d.]+):(\d+)/.exec(said);
      const secure = /listening on tls:([\d.]+):(\d+)/.exec(said);
      if (!found || (options.includes('--admin') && !admin) || (options.includes('--tls-cert') && !secure)) return;
      const address = [found, admin, secure].map(match => match && { host: match[1], port: Number(match[2]) });
      resolve({ ...address[0], admin: address[1], secure: address[2] && { ...address[2], scheme: 'https' } });
    };
    server.stdout.on('data', hear);
    server.stderr.on('data', hear);
    exited.then(
      ([code]) => reject(new Error(`${binary} ended with code ${code}:\n${said}`)),
      error => reject(new Error(`${error.message}; build the server, or name it in SERVER_BIN`)),
    );
  }).catch(error => {
    server.kill('SIGKILL');
    throw error;
  }).finally(() => clearTimeout(timer));
  return { ...address, stop, signal: name => server.kill(name) };
}

/** Starts a TCP proxy to `target`. `cut` resets its connections and refuses new ones; `mend` accepts them again. */
export async function startWire(target) {
  const sockets = new Set();
  let whole = true;
  let refusals = 0;
  const proxy = net.createServer(near => {
    if (!whole) { refusals++; near.resetAndDestroy(); return; }
    const far = net.connect(target.port, target.host);
    for (const [socket, other] of [[near, far], [far, near]]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => { sockets.delete(socket); other.destroy(); });
      socket.pipe(other);
    }
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const destroyAll = () => { for (const socket of sockets) socket.destroy(); };
  return {
    host: '127.0.0.1',
    port: proxy.address().port,
    cut() { whole = false; destroyAll(); },
    mend() { whole = true; },
    refusals: () => refusals,
    async stop() { destroyAll(); proxy.close(); await once(proxy, 'close'); },
  };
}

export function startBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
}

/** Opens a page with its own storage. `complaints` collects the errors and warnings of the console. */
export async function openPage(browser, address, { at = '/', options = {}, prepare } = {}) {
  const context = await browser.newContext(options);
  // A long timeout, so that a busy machine does not fail the test.
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  const complaints = [];
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', error => complaints.push(String(error)));
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', event => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
  });
  await prepare?.(page);
  await page.goto(`${address.scheme ?? 'http'}://${address.host}:${address.port}${at}`);
  return { page, context, complaints };
}

export async function online(page) {
  await page.locator('#state.online').waitFor();
  // The page knows its name only after the server's welcome.
  await page.locator('#people small', { hasText: 'you' }).waitFor({ state: 'attached' });
}

export async function call(page, name) {
  await page.locator('#nick').fill(name);
  await page.locator('#nick').press('Enter');
  await page.locator('#people li', { has: page.locator('small') }).filter({ hasText: name }).waitFor({ state: 'attached' });
}

export async function say(page, text) {
  await page.locator('#text').fill(text);
  await page.locator('#text').press('Enter');
}

/** Waits until the log shows exactly this text from `name` (or a notice, without a name). */
export async function hears(page, text, name) {
  await page.waitForFunction(([text, name]) => [...document.querySelectorAll('#log > div')].some(entry => name === undefined
    ? entry.matches('.notice') && entry.textContent === text
    : entry.querySelector('.name')?.textContent === name && entry.querySelector('p').textContent === text), [text, name]);
}

const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js');

/** Returns the accessibility problems that axe-core finds in a page, one line each. */
export async function violations(page) {
  // The page's Content-Security-Policy does not apply to scripts that the test evaluates.
  await page.evaluate(readFileSync(axe, 'utf8'));
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
  return violations.flatMap(({ id, nodes }) => nodes.map(node => `${id}: ${node.html}: ${node.failureSummary}`));
}
