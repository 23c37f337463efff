/**
 * The parameters of a request: flat names and texts, from the query string and from form bodies. Bodies of other types are
 * no parameters. A name without `=` is there, with null for its value.
 */
import { unescape as unescapeLeniently } from 'node:querystring';
import { CalotypeError } from '../../core/errors.ts';
import { multipartBoundary, readMultipart } from './multipart.ts';

export type Parameters = ReadonlyMap<string, string | null>;

/** More than any client has use for. */
export const maxParameters = 1000;

/** Form encoding: `+` for a blank. What is no valid encoding stays as it is, or becomes U+FFFD. */
export function decodeForm(text: string): string {
  const spaced = text.includes('+') ? text.replaceAll('+', ' ') : text;
  return spaced.includes('%') ? unescapeLeniently(spaced) : spaced;
}

const none: Parameters = new Map();

/** The last of several values counts. @throws invalid_request for too many */
export function readUrlencoded(text: string): Parameters {
  if (text === '') return none;
  const found = new Map<string, string | null>();
  for (const pair of text.split('&', maxParameters + 1)) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    const name = decodeForm(equals === -1 ? pair : pair.slice(0, equals));
    found.set(name, equals === -1 ? null : decodeForm(pair.slice(equals + 1)));
    if (found.size > maxParameters) throw tooMany();
  }
  return found;
}

/**
 * Of a body. Without a type it is taken for a form, as the original did.
 * @throws invalid_request for a malformed multipart body, or too many parameters
 */
export function readForm(body: Buffer, contentType: string | undefined): Parameters {
  if (body.length === 0) return none;
  const type = contentType === undefined ? '' : (contentType.split(';', 1)[0] ?? '').trim().toLowerCase();
  if (type === '' || type === 'application/x-www-form-urlencoded') return readUrlencoded(body.toString('utf8').trim());
  if (type !== 'multipart/form-data') return none;
  const fields = readMultipart(body, multipartBoundary(contentType ?? ''), maxParameters);
  return new Map(fields);
}

/** Later ones win; names keep the place where they came first. */
export function mergeParameters(...all: readonly Parameters[]): Parameters {
  const filled = all.filter((each) => each.size > 0);
  const [only = none] = filled;
  return filled.length <= 1 ? only : new Map(filled.flatMap((each) => [...each]));
}

function tooMany(): CalotypeError {
  return new CalotypeError('invalid_request', `A request has at most ${maxParameters} parameters.`);
}
