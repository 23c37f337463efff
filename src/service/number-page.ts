/** Key-set paging by an object's number, oldest first: the cursor says after which number to go on. */
import { CalotypeError } from '../core/errors.ts';
import type { Page, PageRequest } from './interface.ts';

const defaultLimit = 100;
const maxLimit = 1000;

export interface NumberPage {
  readonly limit: number;
  readonly offset: number;
  /** 0 for the first page. */
  readonly after: number;
}

/** @throws `invalid_request`, `invalid_cursor` */
export function readNumberPage(page: PageRequest): NumberPage {
  const { limit = defaultLimit, offset = 0, cursor } = page;
  if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
    throw new CalotypeError('invalid_request', `The limit must be 1 to ${maxLimit}.`, {
      field: 'limit',
      max: maxLimit,
    });
  }
  if (!Number.isSafeInteger(offset) || offset < 0 || (offset > 0 && cursor !== undefined)) {
    throw new CalotypeError('invalid_request', 'The offset must be zero or more, and goes without a cursor.', {
      field: 'offset',
    });
  }
  if (cursor === undefined) return { limit, offset, after: 0 };
  const number = /^n([1-9a-z][0-9a-z]{0,9})$/.exec(cursor)?.[1];
  if (number === undefined) throw new CalotypeError('invalid_cursor', undefined, { field: 'cursor' });
  return { limit, offset, after: Number.parseInt(number, 36) };
}

/** Makes a page of rows that were read with `limit + 1`, so that the last page knows it is the last. */
export function makeNumberPage<Row extends { number: number }, T>(
  rows: readonly Row[],
  limit: number,
  total: number | null,
  present: (row: Row) => T,
): Page<T> {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  const nextCursor = rows.length > limit && last !== undefined ? `n${last.number.toString(36)}` : null;
  return { items: shown.map(present), nextCursor, total };
}
