/**
 * Short lists that clients ask for again and again, remembered as long as no row changes. Not what only memory knows:
 * machines that run, sizes under a writer, tasks.
 */
import { checkQuery, testsOf } from '../catalog/query-condition.ts';
import type { DriveSnapshot } from '../core/model.ts';
import { always, type Query, type QueryKind } from '../core/query.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { QueriedObjects, QueryPage, QueryUseCases } from './interface.ts';

const rememberedLists = 200;
const longestList = 100;
/** Characters of the query. */
const longestQuestion = 2000;

/** What memory knows better than the rows. */
const liveFields: ReadonlySet<string> = new Set(['power', 'machinePower', 'sizeBytes']);

type Book = {
  readonly [K in QueryKind]: BoundedMap<string, { generation: number; page: QueryPage<QueriedObjects[K]> }>;
};

export function rememberLists(
  { catalog, exports }: Pick<Context, 'catalog' | 'exports'>,
  queries: QueryUseCases,
): QueryUseCases {
  const book: Book = {
    machine: new BoundedMap(rememberedLists),
    snapshot: new BoundedMap(rememberedLists),
    part: new BoundedMap(rememberedLists),
    drive: new BoundedMap(rememberedLists),
    image: new BoundedMap(rememberedLists),
    task: new BoundedMap(0),
  };
  const isSettled = (parts: readonly DriveSnapshot[]): boolean =>
    !parts.some((part) => exports.mayBeWritten(part.driveId));
  const isAtRest: { readonly [K in QueryKind]: (item: QueriedObjects[K]) => boolean } = {
    machine: (machine) => machine.runtime === null,
    snapshot: (snapshot) => isSettled(snapshot.parts),
    part: ({ snapshot }) => isSettled(snapshot.parts),
    drive: () => true,
    image: () => true,
    task: () => false,
  };

  return {
    async list<K extends QueryKind>(caller: Caller, kind: K, query: Query<K>) {
      if (kind === 'task') return queries.list(caller, kind, query);
      // Before anything walks through it.
      checkQuery(kind, query);
      const { generation } = catalog;
      const lists: Book[K] = book[kind];
      const question = questionOf(caller, query);
      const known = lists.get(question);
      if (known?.generation === generation) return known.page;
      const page = await queries.list(caller, kind, query);
      const rests: (item: QueriedObjects[K]) => boolean = isAtRest[kind];
      const isShort = question.length <= longestQuestion && page.items.length <= longestList;
      if (isShort && !isLive(query) && page.items.every(rests)) lists.set(question, { generation, page });
      return page;
    },
  };
}

/** Who sees the same is answered the same. */
function questionOf({ projectId, role, userId }: Caller, query: Query): string {
  return `${projectId} ${role === 'guest' ? userId : ''} ${JSON.stringify(query)}`;
}

function isLive({ where, sort = [] }: Query): boolean {
  for (const { field } of testsOf<string>(where ?? always)) if (liveFields.has(field)) return true;
  return sort.some(({ by }) => liveFields.has(by));
}
