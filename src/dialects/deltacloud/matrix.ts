/** Matrix parameters (`/api;driver=mock/images;instance_id=inst-1`): the routes never see them. */
import { decodeForm } from './parameters.ts';

/** The address without them; those in the query string are none. */
export function withoutMatrix(url: string): string {
  if (!url.includes(';')) return url;
  const mark = url.indexOf('?');
  const path = mark === -1 ? url : url.slice(0, mark);
  return path.replace(/;[^/]*/g, '') + (mark === -1 ? '' : url.slice(mark));
}

/** Those of one path segment; of several with that name, of the last. Undefined when it has none. */
export function matrixOf(url: string, segment: string): ReadonlyMap<string, string> | undefined {
  if (!url.includes(';')) return undefined;
  const mark = url.indexOf('?');
  let found: Map<string, string> | undefined;
  for (const part of (mark === -1 ? url : url.slice(0, mark)).split('/')) {
    const [name, ...parameters] = part.split(';');
    if (name !== segment || parameters.length === 0) continue;
    found ??= new Map();
    for (const parameter of parameters) {
      const equals = parameter.indexOf('=');
      if (equals > 0) found.set(decodeForm(parameter.slice(0, equals)), decodeForm(parameter.slice(equals + 1)));
    }
  }
  return found;
}
