/** Numbers and ids of the same objects. They never change and are never handed out again, so what was found is remembered. */
import { findByIds, findByNumber, type NumberedKind } from '../catalog/numbers.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Context } from './context.ts';
import type { NumberedIds, NumberUseCases } from './interface.ts';

const remembered = 10_000;
const askedAtOnce = 1000;

interface Known<Id> {
  readonly ids: BoundedMap<number, Id>;
  readonly numbers: BoundedMap<Id, number>;
}

type Book = { readonly [K in NumberedKind]: Known<NumberedIds[K]> };

function empty<Id>(): Known<Id> {
  return { ids: new BoundedMap(remembered), numbers: new BoundedMap(remembered) };
}

export function numberUseCases({ catalog }: Pick<Context, 'catalog'>): NumberUseCases {
  const book: Book = {
    machine: empty(),
    snapshot: empty(),
    part: empty(),
    drive: empty(),
    image: empty(),
    task: empty(),
    user: empty(),
    project: empty(),
  };

  function note<K extends NumberedKind>(kind: K, id: NumberedIds[K], number: number): void {
    const known: Known<NumberedIds[K]> = book[kind];
    known.ids.set(number, id);
    known.numbers.set(id, number);
  }

  return {
    async idOf<K extends NumberedKind>(kind: K, number: number) {
      const known: Known<NumberedIds[K]> = book[kind];
      const id = known.ids.get(number);
      if (id !== undefined) return id;
      if (!Number.isSafeInteger(number) || number < 1) return undefined;
      const found = await findByNumber<NumberedIds[K]>(catalog.db, kind, number);
      if (found !== undefined) note(kind, found.id, number);
      return found?.id;
    },

    async numbersOf<K extends NumberedKind>(kind: K, ids: readonly NumberedIds[K][]) {
      const known: Known<NumberedIds[K]> = book[kind];
      const numbers = new Map<NumberedIds[K], number>();
      const unknown: NumberedIds[K][] = [];
      for (const id of ids) {
        const number = known.numbers.get(id);
        if (number === undefined) unknown.push(id);
        else numbers.set(id, number);
      }
      for (let from = 0; from < unknown.length; from += askedAtOnce) {
        for (const { id, number } of await findByIds(catalog.db, kind, unknown.slice(from, from + askedAtOnce))) {
          note(kind, id, number);
          numbers.set(id, number);
        }
      }
      return numbers;
    },
  };
}
