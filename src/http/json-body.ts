/** The native API's bodies. */
import type { FastifyInstance } from 'fastify';
import { readJson } from '../core/json.ts';

export const maxJsonBytes = 1024 ** 2;

export function addJsonParser(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<Buffer>(
    'application/json',
    { parseAs: 'buffer', bodyLimit: maxJsonBytes },
    (_request, body, done) => {
      try {
        done(null, readJson(body));
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)));
      }
    },
  );
}
