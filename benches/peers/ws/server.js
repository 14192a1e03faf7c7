// Echo and relay on the npm package ws, as in its README. One thread: a broadcast over several processes needs a
// broker, which the package does not have.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { WebSocket, WebSocketServer } from 'ws';

const { values } = parseArgs({
  options: {
    listen: { type: 'string', default: '127.0.0.1:8000' },
    app: { type: 'string', default: 'relay' },
    workers: { type: 'string', default: '1' },
  },
});
if (!['echo', 'relay'].includes(values.app) || values.workers !== '1') {
  console.error('usage: --listen ADDR:PORT --app echo|relay --workers 1');
  process.exit(2);
}
const colon = values.listen.lastIndexOf(':');
const host = values.listen.slice(0, colon).replace(/^\[|\]$/g, '');
const port = Number(values.listen.slice(colon + 1));

const server = createServer();
// Compression is off, which is also the default.
const sockets = new WebSocketServer({ server, perMessageDeflate: false, clientTracking: false });
const rooms = new Map();

sockets.on('connection', (socket, request) => {
  socket.on('error', (error) => console.error(`a connection failed: ${error.message}`));
  if (values.app === 'echo') {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    return;
  }
  const clients = rooms.get(request.url) ?? new Set();
  rooms.set(request.url, clients.add(socket));
  socket.on('message', (data, isBinary) => {
    for (const client of clients) {
      if (client.readyState === WebSocket.OPEN) {
        client.send(data, { binary: isBinary });
      }
    }
  });
  socket.on('close', () => clients.delete(socket));
});

server.listen({ host, port, backlog: 4096 });
await once(server, 'listening');
console.log(`listening on ${host}:${server.address().port}`);
