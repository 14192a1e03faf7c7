// Makes all calls of examples/node and prints the results as JSON: check.mjs USER.
import { isGenuine, members, publish, sendToUser, token } from '../../examples/node/uproar.mjs';

const { WEBHOOK_BODY: body, WEBHOOK_SIGNATURE: signature } = process.env;
const result = {
  published: await publish('garden', 'from node & co'),
  sent: (await sendToUser(process.argv[2], 'only for you from node')).count,
  nobody: (await sendToUser('no body', 'hello')).count,
  members: (await members('garden')).members.map(({ name }) => name),
  token: token('node user'),
  error: await publish('', 'no room').then(() => 'no error', error => error.message),
  genuine: isGenuine(body, signature) && isGenuine(Buffer.from(body), signature),
  forged: isGenuine(`${body} `, signature) || isGenuine(body, 'sha256=') || isGenuine(body),
};
console.log(JSON.stringify({ node: result }));
