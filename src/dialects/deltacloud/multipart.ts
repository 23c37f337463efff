/**
 * Reads `multipart/form-data` (RFC 7578, RFC 2046) that is whole in memory: fields only, files are passed over. Strict: what is
 * not well formed is refused, so that nothing is done with half of a form.
 */
import { CalotypeError } from '../../core/errors.ts';

const maxHeaderBytes = 8 * 1024;

/** @throws invalid_request */
export function multipartBoundary(contentType: string): string {
  const match = /;\s*boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)/i.exec(contentType);
  const boundary = match?.[1] ?? match?.[2];
  if (boundary === undefined) throw malformed('its Content-Type names no boundary');
  return boundary;
}

/** @throws invalid_request when it is malformed or has more than `maxFields` parts */
export function readMultipart(body: Buffer, boundary: string, maxFields: number): [string, string][] {
  const delimiter = Buffer.from(`\r\n--${boundary}`, 'latin1');
  // The first delimiter may be the first line.
  const first = delimiter.subarray(2);
  let at = body.subarray(0, first.length).equals(first) ? first.length : afterDelimiter(body, delimiter, 0);
  const fields: [string, string][] = [];
  for (let parts = 0; !isEnd(body, at); parts++) {
    if (parts >= maxFields) throw new CalotypeError('invalid_request', `A form has at most ${maxFields} fields.`);
    // RFC 2046 allows blanks behind a delimiter.
    while (body[at] === 0x20 || body[at] === 0x09) at++;
    if (body[at] !== 0x0d || body[at + 1] !== 0x0a) throw malformed('a delimiter does not end its line');
    // From the line break on, so that a part without headers has an end of them, too.
    const headersEnd = body.indexOf('\r\n\r\n', at, 'latin1');
    const end = body.indexOf(delimiter, headersEnd === -1 ? body.length : headersEnd + 2);
    if (headersEnd === -1 || end === -1) throw malformed('a part has no end');
    if (headersEnd - at > maxHeaderBytes) throw malformed('the headers of a part are too long');
    const { name, isFile } = dispositionOf(body.toString('utf8', at + 2, headersEnd));
    if (!isFile) fields.push([name, body.toString('utf8', headersEnd + 4, Math.max(end, headersEnd + 4))]);
    at = end + delimiter.length;
  }
  return fields;
}

function isEnd(body: Buffer, at: number): boolean {
  return body[at] === 0x2d && body[at + 1] === 0x2d;
}

function afterDelimiter(body: Buffer, delimiter: Buffer, from: number): number {
  const found = body.indexOf(delimiter, from);
  if (found === -1) throw malformed('it does not hold its boundary');
  return found + delimiter.length;
}

const dispositionHeader = /^content-disposition\s*:\s*form-data\s*((?:;[^\r\n]*)?)$/im;
const parameter = /;\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/g;

function dispositionOf(headers: string): { name: string; isFile: boolean } {
  const line = dispositionHeader.exec(headers)?.[1];
  let name: string | undefined;
  let isFile = false;
  for (const [, key = '', quoted, token] of (line ?? '').matchAll(parameter)) {
    if (key.toLowerCase() === 'name') name = quoted === undefined ? token : unquote(quoted);
    if (key.toLowerCase().startsWith('filename')) isFile = true;
  }
  if (name === undefined) throw malformed('a part has no name');
  return { name, isFile };
}

/** Browsers write `"` as `%22` and line breaks as `%0D%0A`; older clients put a backslash before a quote. */
function unquote(text: string): string {
  const plain = text.replace(/\\(["\\])/g, '$1');
  return plain.replace(/%(22|0D|0A)/gi, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)));
}

function malformed(why: string): CalotypeError {
  return new CalotypeError('invalid_request', `The multipart body is malformed: ${why}.`);
}
