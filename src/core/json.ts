/** Reads JSON that comes from outside: UTF-8 only, bounded in depth before anything is built, and without keys that change prototypes. */
import { CalotypeError } from './errors.ts';

export const maxJsonDepth = 64;

const decoder = new TextDecoder('utf-8', { fatal: true });

/**
 * @returns undefined for an empty body
 * @throws CalotypeError `json_too_deep`, `invalid_request`
 */
export function readJson(body: Uint8Array): unknown {
  if (body.length === 0) return undefined;
  checkDepth(body);
  let text: string;
  try {
    text = decoder.decode(body);
  } catch {
    throw new CalotypeError('invalid_request', 'The body is not valid UTF-8.');
  }
  let poisoned = false;
  let value: unknown;
  try {
    // A reviver is slow, so it is used only where the words appear at all.
    value =
      text.includes('__proto__') || text.includes('\\u')
        ? JSON.parse(text, (key, v: unknown) => {
            if (key === '__proto__') poisoned = true;
            return v;
          })
        : JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.replace(/, ".*$/s, '') : '';
    throw new CalotypeError('invalid_request', `The body is not valid JSON: ${reason}.`, {}, { cause });
  }
  if (poisoned) throw new CalotypeError('invalid_request', 'Unknown field: "__proto__".', { field: '__proto__' });
  return value;
}

/** Counts brackets outside strings; a malformed body is left to the parser. */
function checkDepth(body: Uint8Array): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < body.length; i++) {
    const c = body[i];
    if (inString) {
      if (c === 0x5c) i++;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x7b || c === 0x5b) {
      if (++depth > maxJsonDepth) {
        throw new CalotypeError('json_too_deep', `The JSON body is nested deeper than ${maxJsonDepth} levels.`, {
          limit: maxJsonDepth,
        });
      }
    } else if (c === 0x7d || c === 0x5d) depth--;
  }
}
