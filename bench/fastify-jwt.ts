// What one writes with Fastify and fast-jwt: a token is verified with each request, and who it speaks for is told. The
// gate's decision is compared with it. fast-jwt remembers what it has verified, as the gate does. A process of its own;
// takes the secret that tokens are signed with, prints its own port.

import { createVerifier } from 'fast-jwt';
import fastify from 'fastify';

const verify = createVerifier({ key: process.argv[2] ?? '', algorithms: ['HS256'], cache: 1000 });
const server = fastify({ logger: false });
server.addHook('onRequest', async (request, reply) => {
  try {
    const shown = (request.headers.authorization ?? '').slice('Bearer '.length);
    // The bench signs the token itself, with this one claim in it.
    const { sub } = verify(shown) as { sub: string };
    reply.header('anteroom-visitor', sub);
  } catch {
    reply.code(401).send();
  }
});
server.get('/v1/authorize', (_request, reply) => {
  reply.code(204).header('cache-control', 'no-store').send();
});
const address = await server.listen({ host: '127.0.0.1', port: 0 });
process.stdout.write(`${new URL(address).port}\n`);
