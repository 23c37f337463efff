/**
 * What queries of lists use beyond SQL, as functions of the embedded database: regular expressions in linear time, and
 * values that are known in memory only. Both are given to a query by the one who runs it, and looked up row by row.
 */
import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import type { RE2JS } from 're2js';
import { CalotypeError } from '../core/errors.ts';

/** A compiled expression takes some KiB. */
const keptPatterns = 200;
const maxPatternLength = 1000;
/** The time for a text is at most its length times this. */
const maxProgramSize = 2000;

type Library = typeof RE2JS;

let library: Library | undefined;
const compiled = new Map<string, RE2JS>();

/**
 * Makes an expression of RE2's kind ready for `re2`; the library is loaded when the first is met.
 * @throws invalid_request
 */
export async function preparePattern(pattern: string, ignoreCase: boolean): Promise<void> {
  library ??= (await import('re2js')).RE2JS;
  if (pattern.length > maxPatternLength) {
    throw new CalotypeError('invalid_request', `A regular expression has at most ${maxPatternLength} characters.`, {
      max: maxPatternLength,
    });
  }
  let size: number;
  try {
    size = compile(library, pattern, ignoreCase).programSize();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `The regular expression is not valid: ${reason}.`;
    throw new CalotypeError('invalid_request', message, { pattern }, { cause });
  }
  if (size > maxProgramSize) {
    throw new CalotypeError('invalid_request', 'The regular expression repeats too much.', { pattern });
  }
}

function compile(re2: Library, pattern: string, ignoreCase: boolean): RE2JS {
  const key = `${ignoreCase ? 'i' : 'c'}${pattern}`;
  const known = compiled.get(key);
  if (known !== undefined) return known;
  const made = re2.compile(pattern, ignoreCase ? re2.CASE_INSENSITIVE : 0);
  if (compiled.size >= keptPatterns) {
    const oldest = compiled.keys().next().value;
    if (oldest !== undefined) compiled.delete(oldest);
  }
  compiled.set(key, made);
  return made;
}

function matches(pattern: SQLInputValue, ignoreCase: SQLInputValue, text: SQLInputValue): number | null {
  if (typeof text !== 'string') return null;
  if (typeof pattern !== 'string' || library === undefined) throw new Error('the pattern was not prepared');
  return compile(library, pattern, Number(ignoreCase) === 1).test(text) ? 1 : 0;
}

/** Values by the id of the object they are of. */
export type HeldValues = ReadonlyMap<string, string | number>;

const held = new Map<number, HeldValues>();
let lastHandle = 0;

/** Lets queries see values under a handle, as `held(handle, id)`, for as long as `work` takes. */
export async function holding<T>(values: HeldValues, work: (handle: number) => Promise<T>): Promise<T> {
  const handle = ++lastHandle;
  held.set(handle, values);
  try {
    return await work(handle);
  } finally {
    held.delete(handle);
  }
}

function heldValue(handle: SQLInputValue, id: SQLInputValue): string | number | null {
  return held.get(Number(handle))?.get(String(id)) ?? null;
}

/** `re2(pattern, ignoreCase, text)` and `held(handle, id)`. */
export function registerFunctions(raw: DatabaseSync): void {
  raw.function('re2', { deterministic: true }, matches);
  raw.function('held', heldValue);
}
