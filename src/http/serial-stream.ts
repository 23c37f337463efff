/**
 * Follows a serial log over HTTP: what comes goes out at the client's own pace, until the client goes, the machine is
 * deleted, the credentials end or the server closes.
 */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { MachineId } from '../core/ids.ts';
import type { SerialRange } from '../qemu/serial-log.ts';
import { authenticate, callerOf } from './authentication.ts';
import type { AppContext } from './context.ts';

/** Of a client that went without a word, the system learns by itself. */
const keepAliveMs = 60_000;

export const serialMedia = 'text/plain';

export function serialHeaders({ fromByte, sizeBytes }: SerialRange): Record<string, string> {
  return {
    'content-type': `${serialMedia}; charset=utf-8`,
    'content-range': `bytes ${fromByte}-${Math.max(fromByte, sizeBytes) - 1}/${sizeBytes}`,
  };
}

/** Answers with all that is written from `fromByte` on, for as long as the caller may read it. */
export async function followSerialLog(
  context: AppContext,
  request: FastifyRequest,
  reply: FastifyReply,
  asked: { machineId: MachineId; fromByte: number },
): Promise<FastifyReply> {
  const { machines } = context.service;
  const { machineId, fromByte } = asked;
  const ended = new AbortController();
  const signal = AbortSignal.any([ended.signal, context.closing]);
  const range = await machines.serialLog(callerOf(request), machineId, { fromByte, follow: true, signal });
  reply.hijack();
  const response = reply.raw;
  request.raw.socket.setKeepAlive(true, keepAliveMs);
  const headers: Readonly<Record<string, number | string | string[] | undefined>> = reply.getHeaders();
  response.writeHead(200, { ...headers, ...serialHeaders(range), 'x-accel-buffering': 'no' });
  response.flushHeaders();
  response.once('close', () => ended.abort());
  const recheck = setInterval(() => {
    authenticate(request, context.authenticator)
      .then((caller) => machines.get(caller, machineId))
      .catch(() => ended.abort());
  }, context.recheckMs).unref();
  try {
    await pass(range, response);
    response.end();
  } catch (err) {
    // The head is out: the client learns by the end of the stream, and comes back.
    request.log.error({ requestId: request.id, err }, 'a serial log could not be followed');
    response.destroy();
  } finally {
    clearInterval(recheck);
    range.stream.destroy();
  }
  return reply;
}

async function pass({ stream }: SerialRange, response: ServerResponse): Promise<void> {
  const gone = once(response, 'close');
  for await (const piece of stream) {
    if (response.destroyed) return;
    if (!response.write(piece)) await Promise.race([once(response, 'drain'), gone]);
  }
}
