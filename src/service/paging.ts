/** Page requests and cursors. A cursor holds the place after the last item, and what the list was made with. */
import { createHash } from 'node:crypto';
import { CalotypeError } from '../core/errors.ts';
import type { PageRequest, SortOrder } from './interface.ts';

export interface Place {
  /** Value of the sort field. */
  readonly key: string | number;
  readonly number: number;
}

const maxLimit = 1000;
const defaultLimit = 100;
const maxCursorLength = 4096;

/** @throws invalid_request */
export function pageOf(page: PageRequest): { limit: number; offset: number } {
  const limit = page.limit ?? defaultLimit;
  const offset = page.offset ?? 0;
  if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
    throw new CalotypeError('invalid_request', `The limit must be 1 to ${maxLimit}.`, {
      field: 'limit',
      max: maxLimit,
    });
  }
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new CalotypeError('invalid_request', 'The offset must be a whole number, 0 or more.', { field: 'offset' });
  }
  if (page.offset !== undefined && page.cursor !== undefined) {
    throw new CalotypeError('invalid_request', 'Give a cursor or an offset, not both.', { field: 'offset' });
  }
  return { limit, offset };
}

function digest(shape: object): string {
  return createHash('sha256').update(JSON.stringify(shape)).digest('base64url').slice(0, 12);
}

export function cursorOf(shape: object, sort: string, order: SortOrder, place: Place): string {
  const content = { k: place.key, n: place.number, s: sort, o: order, f: digest(shape) };
  return Buffer.from(JSON.stringify(content)).toString('base64url');
}

function refuse(why: string): never {
  throw new CalotypeError('invalid_cursor', `The page cursor is not valid: ${why}.`, { field: 'cursor' });
}

/** @throws invalid_cursor when it is damaged or comes from a list with another filter or order */
export function readCursor(page: PageRequest, shape: object, sort: string, order: SortOrder): Place | null {
  if (page.cursor === undefined) return null;
  if (page.cursor.length > maxCursorLength) refuse('it is too long');
  let content: unknown;
  try {
    content = JSON.parse(Buffer.from(page.cursor, 'base64url').toString('utf8'));
  } catch {
    return refuse('it is damaged');
  }
  if (typeof content !== 'object' || content === null) return refuse('it is damaged');
  const { k: key, n: number, s, o, f }: Record<string, unknown> = { ...content };
  if (s !== sort || o !== order || f !== digest(shape)) return refuse('it belongs to another list');
  if (typeof number !== 'number' || !Number.isSafeInteger(number)) return refuse('it is damaged');
  if (typeof key !== 'string' && !(typeof key === 'number' && Number.isSafeInteger(key)))
    return refuse('it is damaged');
  return { key, number };
}
