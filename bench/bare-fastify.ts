/** The baseline of H.4: one Fastify route that answers a constant JSON text of a given size. */
import fastify from 'fastify';

const [port = '0', size = '0'] = process.argv.slice(2);
const app = fastify();
const body = JSON.stringify({ text: 'x'.repeat(Math.max(0, Number(size) - 11)) });
app.get('/', (_, reply) => reply.type('application/json; charset=utf-8').send(body));
await app.listen({ host: '127.0.0.1', port: Number(port) });
process.stdout.write('ready\n');
