// Calls of uproar from Node.js 18 or later, without a package. docs/api.md describes the HTTP API.
import { createHmac, timingSafeEqual } from 'node:crypto';

const { CHAT_URL, CHAT_KEY, CHAT_SECRET, CHAT_WEBHOOK_SECRET } = process.env;
const hmac = (secret, text) => createHmac('sha256', secret).update(text);
async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${CHAT_KEY}`, 'Content-Type': 'text/plain' };
  const answer = await fetch(`${CHAT_URL}/api/${path}`, { method, headers, body }).then(response => response.json());
  if (answer.error) throw new Error(`${answer.error.message} ${answer.error.remedy}`);
  return answer;
}

export const publish = (room, text) => call('POST', `rooms/${encodeURIComponent(room)}/messages`, text);
export const sendToUser = (user, text) => call('POST', `users/${encodeURIComponent(user)}/messages`, text);
export const members = room => call('GET', `rooms/${encodeURIComponent(room)}/members?limit=1000`);
export function token(sub, seconds = 3600, claims = {}) {
  const parts = [{ alg: 'HS256' }, { ...claims, sub, exp: Math.floor(Date.now() / 1000) + seconds }];
  const text = parts.map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${text}.${hmac(CHAT_SECRET, text).digest('base64url')}`;
}
// Returns whether a webhook comes from the server. `body` is text or bytes, `signature` the header Uproar-Signature.
export function isGenuine(body, signature = '') {
  const texts = [`sha256=${hmac(CHAT_WEBHOOK_SECRET, body).digest('hex')}`, signature];
  return timingSafeEqual(...texts.map(text => hmac(CHAT_WEBHOOK_SECRET, text).digest()));   // of equal length
}
