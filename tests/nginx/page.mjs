// Tests the page below a prefix of nginx in Chromium: page.mjs PORT PATH. Two users talk in each of two rooms.
import assert from 'node:assert/strict';
import { call, hears, online, openPage, say, startBrowser } from '../browser/harness.mjs';

const [port, path] = [Number(process.argv[2]), process.argv[3]];
const address = { host: '127.0.0.1', port };
const browser = await startBrowser();
try {
  await Promise.all([path, `${path}room/tea`].map(async at => {
    const [ada, bob] = await Promise.all([openPage(browser, address, { at }), openPage(browser, address, { at })]);
    await Promise.all([online(ada.page), online(bob.page)]);
    const name = `ada@${at.length}`;
    await call(ada.page, name);
    await say(ada.page, `hello at ${at}`);
    await hears(bob.page, `hello at ${at}`, name);
    assert.deepEqual([...ada.complaints, ...bob.complaints], []);
    await Promise.all([ada.context.close(), bob.context.close()]);
  }));
} finally {
  await browser.close();
}
console.log('    the page in Chromium: passed');
