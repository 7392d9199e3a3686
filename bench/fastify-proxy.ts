// What one writes with Fastify: a proxy that knows nothing of lines or sessions. The gate's proxy is compared with it.
// A process of its own; takes the origin's address, prints its own port.

import proxy from '@fastify/http-proxy';
import fastify from 'fastify';

const server = fastify({ logger: false });
await server.register(proxy, { upstream: process.argv[2] ?? '' });
const address = await server.listen({ host: '127.0.0.1', port: 0 });
process.stdout.write(`${new URL(address).port}\n`);
