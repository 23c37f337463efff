/**
 * What resources consist of, and how their attributes are looked for: as a field of the service's lists, or, where the
 * dialect has words of its own, as a table of those words and what they mean.
 */
import type { Condition, QueryFields, QueryKind } from '../../core/query.ts';
import type { Caller } from '../../service/caller.ts';
import type { DialectContext } from '../dialect.ts';

/** What a request is answered with. */
export interface Env {
  readonly context: DialectContext;
  readonly caller: Caller;
  /** What references begin with, the version included if the request named it: `http://host/api`. */
  readonly api: string;
}

/** What can be sorted by, and not only filtered. */
export type SortField<K extends QueryKind> = Exclude<QueryFields[K], 'tag'>;

export type Word = string | number | boolean | null;

/** A word of the dialect, and for which objects it is said. */
export interface Meaning<F extends string> {
  readonly word: Word;
  readonly when: Condition<F>;
}

export type Search<F extends string> =
  | {
      readonly type: 'text' | 'integer' | 'time';
      readonly field: F;
      /** The empty text is shown as null. */
      readonly emptyIsNull?: boolean;
    }
  /** `sort` orders objects as their words do; without it all have the same word. */
  | { readonly type: 'words'; readonly words: readonly Meaning<F>[]; readonly sort?: WordOrder<F> }
  /** A time that is not known of any; what it is compared with must be a time all the same. */
  | { readonly type: 'unknownTime' }
  /** A text of its own, or, where it is null, a word. */
  | { readonly type: 'either'; readonly field: F; readonly words: readonly Meaning<F>[] }
  /** An object named by number; `find` gives the condition of those that refer to it. */
  | {
      readonly type: 'reference';
      find(number: number): Promise<Condition<F>>;
      readonly isNull: Condition<F>;
    };

export interface WordOrder<F extends string> {
  readonly field: F;
  /** The values of the field in the order of their words, where their own order is another. */
  readonly values?: readonly string[];
}

export interface Attribute<T, F extends string> {
  readonly name: string;
  present(item: T): unknown;
  /** Without it, it cannot be filtered or sorted by. */
  readonly search?: Search<F>;
}

/** Present only when named: looked up for all items of an answer at once. */
export interface Virtual<T, F extends string = never> {
  readonly name: string;
  prepare(items: readonly T[], env: Env): Promise<(item: T) => unknown>;
  readonly search?: Search<F>;
  /** Objects or lists of them, which OPTIONS tells apart from values. */
  readonly isRelation?: boolean;
}

export function constant<T>(name: string, word: Word): Attribute<T, never> {
  return { name, present: () => word, search: said(word) };
}

/** A time that only the real service knows. */
export function unknownTime<T>(name: string): Attribute<T, never> {
  return { name, present: () => null, search: { type: 'unknownTime' } };
}

/** What all objects have in common. */
export function said(word: Word): Search<never> {
  return { type: 'words', words: [{ word, when: { all: [] } }] };
}

/** Known to the real service, not to this one. */
export function unknown<T>(name: string, value: null | readonly never[], isRelation: boolean): Virtual<T> {
  return {
    name,
    prepare: async () => () => value,
    ...(value === null ? { search: said(null) } : {}),
    isRelation,
  };
}
