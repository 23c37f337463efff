/** Downloads: streamed as they are read, with a file name, and with a length where it is known. */
import type { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { strict } from './requests.ts';
import { oneOf } from './schemas.ts';

export const downloadQuery = strict({
  format: Type.Optional(oneOf(['raw', 'qcow2'], { description: 'default raw' })),
});
export const downloadMedia = ['application/octet-stream'];

export function sendDownload(
  request: FastifyRequest,
  reply: FastifyReply,
  download: { stream: Readable; sizeBytes: number | null; fileName: string },
): FastifyReply {
  const { stream, sizeBytes, fileName } = download;
  reply.header('content-type', 'application/octet-stream').header('content-disposition', attachment(fileName));
  if (sizeBytes !== null) reply.header('content-length', String(sizeBytes));
  if (request.method === 'HEAD') {
    // Nothing of it is wanted, so nothing of it is read.
    stream.on('error', () => undefined);
    stream.destroy();
    return reply.send();
  }
  return reply.send(stream);
}

/** RFC 6266: a plain name for old clients, the true one in UTF-8. */
export function attachment(fileName: string): string {
  const plain = fileName.replace(/[^\x20-\x7e]|["\\/%]/g, '_');
  const encoded = encodeURIComponent(fileName.toWellFormed()).replace(
    /['()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return plain === fileName
    ? `attachment; filename="${plain}"`
    : `attachment; filename="${plain}"; filename*=UTF-8''${encoded}`;
}
