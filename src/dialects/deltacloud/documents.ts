/** What operations answer with, and how it becomes bytes in one of the three formats. */
import { hash } from 'node:crypto';
import type { FastifyReply } from 'fastify';
import { Kept } from '../kept.ts';
import type { Call } from './calls.ts';
import { contentSecurityPolicy, type Page, wholePage } from './html.ts';
import { contentTypes, type Format } from './negotiation.ts';
import type { Links } from './present.ts';
import { bareXmlDocument, block, type Element, xmlDocument } from './xml.ts';

type Body = Pick<Page, 'heading' | 'content'>;

/** One kind of object in its three forms. */
export interface Resource<T> {
  readonly name: string;
  readonly plural: string;
  /** False where documents begin without an XML declaration. */
  readonly isDeclared: boolean;
  xml(value: T, links: Links): Element;
  json(value: T, links: Links): object;
  page(value: T, links: Links): Body;
  listPage(values: readonly T[], links: Links): Body;
  /** Default: an array below the plural name. */
  listJson?(values: readonly T[], links: Links): object;
}

export interface Document {
  xml(): string;
  json(): object;
  page(): Page;
}

export type Answer =
  | {
      readonly is: 'document';
      readonly status: 200 | 201 | 202;
      readonly document: Document;
      readonly location?: string;
      /** Where browsers are sent instead. */
      readonly seeOther?: string;
      /** An object or a list that is another one whenever something of the document changes. */
      readonly madeOf?: object;
    }
  | { readonly is: 'made'; readonly rendering: Rendering }
  | { readonly is: 'page'; readonly page: Page }
  | { readonly is: 'gone'; readonly seeOther: string }
  | { readonly is: 'moved'; readonly location: string };

export interface Rendering {
  readonly body: string;
  readonly etag: string;
}

const renderings = new Kept<Rendering>();
/** Characters; clients choose what is in it. */
const longestKey = 300;

/** Of all that a document depends on besides its objects; pages name their own address. */
function renderingKey({ format, links, id, request }: Call): string {
  return `${format} ${links.base} ${format === 'html' ? request.url : id}`;
}

/** The document of an object, or of a list, as it was made before. */
export function madeBefore(madeOf: object, call: Call): Rendering | undefined {
  return renderings.get(madeOf, renderingKey(call));
}

export function memberDocument<T>(resource: Resource<T>, value: T, self: string, links: Links): Document {
  const { name, plural, isDeclared } = resource;
  return {
    xml: () => (isDeclared ? xmlDocument : bareXmlDocument)(resource.xml(value, links)),
    json: () => ({ [name]: resource.json(value, links) }),
    page: () => ({ ...resource.page(value, links), collection: plural, self }),
  };
}

export function listDocument<T>(resource: Resource<T>, values: readonly T[], { links, request }: Call): Document {
  const { plural, isDeclared } = resource;
  return {
    xml: () => {
      const root = block(
        plural,
        {},
        values.map((value) => resource.xml(value, links)),
      );
      return (isDeclared ? xmlDocument : bareXmlDocument)(root);
    },
    json: () => resource.listJson?.(values, links) ?? { [plural]: values.map((value) => resource.json(value, links)) },
    page: () => ({
      ...resource.listPage(values, links),
      collection: plural,
      self: `${request.base}${request.url}`,
    }),
  };
}

function bodyFor(format: Format, document: Document, links: Links): string {
  switch (format) {
    case 'xml':
      return document.xml();
    case 'json':
      return JSON.stringify(document.json());
    case 'html':
      return wholePage(document.page(), links);
  }
}

/** Keeps the framework from adding a charset or quoting anything. */
export function sendText(reply: FastifyReply, status: number, contentType: string, body: string): FastifyReply {
  if (contentType.startsWith('text/html')) {
    reply.header('content-security-policy', contentSecurityPolicy);
    reply.header('referrer-policy', 'same-origin');
  }
  return reply.code(status).header('content-type', contentType).serializer(asIs).send(body);
}

const asIs = (payload: unknown): string => String(payload);

function rendered(body: string): Rendering {
  return { body, etag: hash('md5', body) };
}

/** Answers of 200 and 201 carry the digest of their body. */
function sendTagged(reply: FastifyReply, status: 200 | 201, contentType: string, made: Rendering): FastifyReply {
  reply.header('etag', made.etag);
  reply.header('cache-control', 'max-age=0, private, must-revalidate');
  return sendText(reply, status, contentType, made.body);
}

/** HTML whatever was asked for. */
export function sendPage(reply: FastifyReply, page: Page, links: Links): FastifyReply {
  return sendTagged(reply, 200, contentTypes.html, rendered(wholePage(page, links)));
}

function noteRuntime(reply: FastifyReply): void {
  reply.header('x-backend-runtime', (reply.elapsedTime / 1000).toFixed(5));
}

export function sendAnswer(call: Call, reply: FastifyReply, answer: Answer): FastifyReply {
  const { format, links } = call;
  switch (answer.is) {
    case 'document': {
      const { status, document, location, seeOther, madeOf } = answer;
      if (format === 'html' && seeOther !== undefined) return redirect(reply, 303, seeOther);
      if (location !== undefined) reply.header('location', location);
      const body = bodyFor(format, document, links);
      if (status === 202) return sendText(reply, status, contentTypes[format], body);
      const rendering = rendered(body);
      const key = renderingKey(call);
      if (madeOf !== undefined && key.length <= longestKey) renderings.keep(madeOf, key, rendering);
      if (status === 200) noteRuntime(reply);
      return sendTagged(reply, status, contentTypes[format], rendering);
    }
    case 'made':
      noteRuntime(reply);
      return sendTagged(reply, 200, contentTypes[format], answer.rendering);
    case 'page':
      return sendPage(reply, answer.page, links);
    case 'gone':
      return format === 'html' ? redirect(reply, 303, answer.seeOther) : reply.code(204).send();
    case 'moved':
      return redirect(reply, 301, answer.location);
  }
}

function redirect(reply: FastifyReply, status: 301 | 303, location: string): FastifyReply {
  return reply.code(status).header('location', location).send();
}
