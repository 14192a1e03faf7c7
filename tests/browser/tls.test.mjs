import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { call, hears, online, openPage, say, startBrowser, startServer } from './harness.mjs';

test('a page over https chats with a page over http and reconnects', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'uproar-'));
  const [cert, key] = ['cert.pem', 'key.pem'].map(name => path.join(directory, name));
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert,
  ], { stdio: 'ignore' });
  const server = await startServer(['--listen', 'tls:127.0.0.1:0', '--tls-cert', cert, '--tls-key', key]);
  const browser = await startBrowser();
  try {
    // The certificate is self-signed. This test does not cover its verification.
    const secure = await openPage(browser, server.secure, { at: '/room/tea', options: { ignoreHTTPSErrors: true } });
    const plain = await openPage(browser, server, { at: '/room/tea' });
    await online(secure.page);
    await online(plain.page);
    await call(secure.page, 'sue');
    await call(plain.page, 'pat');
    assert.equal(await secure.page.evaluate(() => isSecureContext && location.protocol), 'https:');
    await say(secure.page, 'over TLS');
    await hears(plain.page, 'over TLS', 'sue');
    const long = 'long '.repeat(600).trim();
    await say(plain.page, long);
    await hears(secure.page, long, 'pat');
    await secure.page.reload();
    await online(secure.page);
    await say(plain.page, 'welcome back');
    await hears(secure.page, 'welcome back', 'pat');
    assert.deepEqual([secure.complaints, plain.complaints], [[], []]);
  } finally {
    await browser.close();
    await server.stop();
    rmSync(directory, { recursive: true });
  }
});
