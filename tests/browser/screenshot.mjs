// Writes docs/screenshot.png, or the file named as argument: a chat of two users, 1000 x 640 pixels.
import path from 'node:path';
import { call, hears, online, openPage, repository, say, startBrowser, startServer } from './harness.mjs';

const file = process.argv[2] ?? path.join(repository, 'docs/screenshot.png');
const server = await startServer();
const browser = await startBrowser();
try {
  const options = { viewport: { width: 1000, height: 640 }, colorScheme: process.env.SCHEME ?? 'light' };
  const a = await openPage(browser, server, { at: '/room/harbour', options });
  const b = await openPage(browser, server, { at: '/room/harbour' });
  await online(a.page);
  await online(b.page);
  await call(a.page, 'alice');
  await call(b.page, 'bob');
  const talk = [
    [b, 'bob', 'Morning! Is the ferry running today?'],
    [a, 'alice', 'It is. First one leaves at 9:40.'],
    [a, 'alice', 'There is wind, so take the big one.'],
    [b, 'bob', 'Good to know. How many people are in this room?'],
    [a, 'alice', 'Two just now. Send them the link: whoever opens it lands here.'],
    [b, 'bob', 'Then I will see you at the pier.'],
  ];
  for (const [{ page }, name, text] of talk) {
    await say(page, text);
    await hears(a.page, text, name);
  }
  await say(b.page, '/msg alice I bring the coffee ☕');
  await hears(a.page, 'I bring the coffee ☕', 'bob (private)');
  await a.page.locator('#people li', { hasText: 'bob' }).waitFor();
  await a.page.screenshot({ path: file });
} finally {
  await browser.close();
  await server.stop();
}
