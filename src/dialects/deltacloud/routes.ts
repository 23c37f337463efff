/**
 * The Apache Deltacloud API (version 1.1.3): storage snapshots, volumes, instances and what they need, in XML, JSON and HTML.
 * What is the same for every request is here: the headers, what is refused before anything is looked at, and how errors leave.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { CalotypeError } from '../../core/errors.ts';
import type { Dialect, DialectContext, RawAnswer } from '../dialect.ts';
import { inAddress, type Reading, readHead, unread } from './calls.ts';
import { sendPage, sendText } from './documents.ts';
import { answerOf, type ErrorAnswer, Refusal } from './errors.ts';
import { allowedAt, fixedResourceRoutes } from './fixed.ts';
import { escapeMarkup, wholePage } from './html.ts';
import { imageRoutes, instanceRoutes } from './instances.ts';
import { withoutMatrix } from './matrix.ts';
import { contentTypes } from './negotiation.ts';
import { errorPage, indexPage } from './pages.ts';
import { deltacloudVersion, Links } from './present.ts';
import { errorJson } from './present-json.ts';
import { errorXml } from './present-xml.ts';
import { addHandlers } from './routing.ts';
import { snapshotRoutes } from './snapshots.ts';
import { volumeRoutes } from './volumes.ts';
import { bareXmlDocument } from './xml.ts';

const serverName = `Apache-Deltacloud/${deltacloudVersion}`;
/** What the original says of texts that are no documents. */
const plainText = 'text/html;charset=utf-8';
const shownValueLength = 1000;

export const deltacloud: Dialect = {
  name: 'deltacloud',
  path: '/api',
  rewriteUrl: withoutMatrix,

  addRoutes(app, context) {
    app.decorateRequest('deltacloud', null);
    app.addHook('onRequest', (request, reply, done) => {
      let error: unknown;
      try {
        if (!begin(request, reply)) return;
      } catch (thrown) {
        error = thrown;
      }
      if (error instanceof Error) done(error);
      else done();
    });
    addIndexPage(app);
    addHandlers(app, context, allRoutes(context));
    for (const url of ['/api', '/api/*']) {
      app.options(url, (request, reply) => reply.header('allow', allowedAt(pathOf(request.url))).send());
    }
  },

  answerError,

  answerParserError(): RawAnswer {
    return { status: 400, headers: { 'Content-Type': plainText, Server: serverName }, body: 'Bad Request' };
  },
};

function allRoutes(context: DialectContext) {
  return {
    ...fixedResourceRoutes(context),
    ...imageRoutes(context),
    ...instanceRoutes(context),
    ...snapshotRoutes(context),
    ...volumeRoutes(context),
  };
}

/** Not of the API: it is HTML for whatever is asked for. */
function addIndexPage(app: FastifyInstance): void {
  app.get('/', (request, reply) => {
    const links = new Links(request.base);
    return sendPage(reply, { ...indexPage(links), self: links.base }, links);
  });
}

/** Reads the head of a request. @returns false when it was answered already */
function begin(request: FastifyRequest, reply: FastifyReply): boolean {
  if (request.headers.host === undefined) {
    reply.header('server', serverName);
    sendText(reply, 400, plainText, 'Bad Request');
    return false;
  }
  request.base = withoutUsualPort(request.base);
  const reading = readHead(request);
  request.deltacloud = reading;
  if (reading.format === null && request.url !== '/') {
    reply.code(406).send();
    return false;
  }
  addHeaders(reply, reading);
  if (!reading.knowsDriver) {
    throw new Refusal('invalid_request', { status: 500, message: `There is no driver ${reading.driver}.` });
  }
  return true;
}

/** Some clients name in `Host` also the port that goes without saying; the original left it out of what it linked to. */
function withoutUsualPort(base: string): string {
  if (!base.includes(':80') && !base.includes(':443')) return base;
  return base.replace(/^(http:\/\/[^/]+):80(?=\/|$)|^(https:\/\/[^/]+):443(?=\/|$)/, '$1$2');
}

function addHeaders(reply: FastifyReply, { driver, provider }: Reading): void {
  reply.header('server', serverName);
  reply.header('x-deltacloud-driver', driver);
  if (provider !== null) reply.header('x-deltacloud-provider', provider);
}

function pathOf(url: string): string {
  const mark = url.indexOf('?');
  return mark === -1 ? url : url.slice(0, mark);
}

function answerError(error: CalotypeError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const reading = request.deltacloud ?? readAnyway(request);
  addHeaders(reply, reading);
  // The rest of a body that is too large is not worth reading.
  if (error.code === 'body_too_large') reply.header('connection', 'close');
  if (error.code === 'route_not_found' || error.code === 'method_not_allowed') {
    return sendText(reply, 404, contentTypes.html, '<h1>Not Found</h1>');
  }
  const answer = answerOf(error);
  if (answer.status === 401) {
    const { hostname } = new URL(request.base);
    reply.header('www-authenticate', `Basic realm="${reading.driver}-deltacloud@${hostname}"`);
  }
  const wait = error.details.retryAfterSeconds;
  if (typeof wait === 'number') reply.header('retry-after', String(Math.ceil(wait)));
  if (answer.plain) return sendText(reply, answer.status, plainText, escapeMarkup(answer.message));
  return sendDocument(answer, request, reply, reading);
}

/** Of a request that was refused before the hooks ran. */
function readAnyway(request: FastifyRequest): Reading {
  try {
    return readHead(request);
  } catch {
    return unread;
  }
}

function sendDocument(
  answer: ErrorAnswer,
  request: FastifyRequest,
  reply: FastifyReply,
  reading: Reading,
): FastifyReply {
  const format = reading.format ?? 'xml';
  const { driver, provider } = reading;
  const url = `${mountOf(request.base)}${pathOf(request.url)}`;
  switch (format) {
    case 'xml': {
      const failed = { url, driver, provider, parameters: shownParameters(request, reading) };
      return sendText(reply, answer.status, contentTypes.xml, bareXmlDocument(errorXml(answer, failed)));
    }
    case 'json':
      return sendText(reply, answer.status, contentTypes.json, JSON.stringify(errorJson(answer)));
    case 'html': {
      const links = new Links(request.base);
      const self = `${request.base}${request.url}`;
      const retry = request.method === 'GET' ? self : null;
      return sendText(
        reply,
        answer.status,
        contentTypes.html,
        wholePage({ ...errorPage(answer, url, retry), self }, links),
      );
    }
  }
}

/** The path that all addresses begin with, as the client sees them. */
function mountOf(base: string): string {
  const slash = base.indexOf('/', 'https://'.length);
  return slash === -1 ? '' : base.slice(slash);
}

/** As the original inspects them: texts quoted, `nil` for none. */
function shownParameters(request: FastifyRequest, { parameters }: Reading): [string, string][] {
  const shown = [...parameters].map(([name, value]): [string, string] => [name, inspect(value)]);
  const id = inAddress(request, 'id');
  return id === null ? shown : [...shown.filter(([name]) => name !== 'id'), ['id', inspect(id)]];
}

function inspect(value: string | null): string {
  if (value === null) return 'nil';
  return JSON.stringify(value.length > shownValueLength ? `${value.slice(0, shownValueLength)}…` : value);
}
