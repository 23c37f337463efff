/** Who may do what with many objects at once: the rules of `rights.ts`, in as many queries for a thousand as for one. */
import { type RawBuilder, sql } from 'kysely';
import type { Catalog } from '../catalog/catalog.ts';
import { inList } from '../catalog/page.ts';
import type { Access } from '../catalog/schema.ts';
import type { UserId } from '../core/ids.ts';
import { Answers } from './answers.ts';
import type { Caller } from './caller.ts';
import type { SharedKind, SharedWith, SharingUseCases } from './interface.ts';
import { seesAllGrants } from './rights.ts';

const askedAtOnce = 1000;

/** Of an object of the project: what is granted on it, and what is granted on all that it consists of. */
interface Granted {
  readonly id: string;
  /** rw if any of these grants says so, ro if there is any; null without. */
  readonly access: Access | null;
}

const tables = { machine: 'machines', drive: 'drives', snapshot: 'snapshots', image: 'images' } as const;

export function sharingUseCases({ catalog }: { catalog: Pick<Catalog, 'db'> }): SharingUseCases {
  const { db } = catalog;

  /** `ask` is given at most so many at a time. */
  async function inParts<T>(ids: readonly string[], ask: (some: readonly string[]) => RawBuilder<T>): Promise<T[]> {
    const rows: T[] = [];
    for (let from = 0; from < ids.length; from += askedAtOnce) {
      rows.push(...(await ask(ids.slice(from, from + askedAtOnce)).execute(db)).rows);
    }
    return rows;
  }

  return {
    async accessTo(caller, kind, ids) {
      if (caller.role !== 'guest') {
        const own = await inParts(ids, (some) => ownObjects(caller, kind, some));
        return new Map(own.map(({ id }): [string, Access] => [id, 'rw']));
      }
      const rows = await inParts(ids, (some) => grantedObjects(caller, kind, some));
      return new Map(rows.flatMap(({ id, access }): [string, Access][] => (access === null ? [] : [[id, access]])));
    },

    async accessToShown(caller, kind, ids) {
      if (caller.role === 'guest') return this.accessTo(caller, kind, ids);
      return new Map(ids.map((id): [string, Access] => [id, 'rw']));
    },

    async grantees(caller, ids) {
      interface Row {
        objectId: string;
        userId: UserId;
        userName: string;
        email: string | null;
        access: Access;
      }
      const own = seesAllGrants(caller) ? sql`` : sql` and g.user_id = ${caller.userId}`;
      const rows = await inParts(
        ids,
        (some) => sql<Row>`
          select g.object_id as "objectId", u.id as "userId", u.name as "userName", u.email, g.access
          from grants g join users u on u.id = g.user_id
          where ${inList(sql`g.object_id`, some)} and g.project_id = ${caller.projectId}${own}
          order by u.name`,
      );
      const found = new Map<string, SharedWith[]>();
      for (const { objectId, ...grantee } of rows) {
        const known = found.get(objectId);
        if (known === undefined) found.set(objectId, [grantee]);
        else known.push(grantee);
      }
      return found;
    },
  };
}

const rememberedGrantees = 2000;
/** Of a single object, with what it is part of. */
const fewIds = 4;

/** Remembers whom single objects are shared with. */
export function withMemory(catalog: Pick<Catalog, 'generation'>, sharing: SharingUseCases): SharingUseCases {
  const answers = new Answers<ReadonlyMap<string, readonly SharedWith[]>>(catalog, rememberedGrantees);
  return {
    ...sharing,
    grantees(caller, ids) {
      if (ids.length > fewIds) return sharing.grantees(caller, ids);
      const asker = seesAllGrants(caller) ? '' : caller.userId;
      return answers.get(`${caller.projectId} ${asker} ${ids.join(' ')}`, () => sharing.grantees(caller, ids));
    },
  };
}

/** The ids first, one by one: a project may have a million objects. */
const asked = (ids: readonly string[]): RawBuilder<unknown> =>
  sql`(select value as id from json_each(${JSON.stringify(ids)})) as w`;

const askedParts = (ids: readonly string[]): RawBuilder<unknown> =>
  sql`${asked(ids)} cross join drive_snapshots p on p.id = w.id cross join snapshots s on s.id = p.snapshot_id`;

/** A machine that is gone counts as long as there are snapshots of it. */
function ownObjects(caller: Caller, kind: SharedKind, ids: readonly string[]): RawBuilder<{ id: string }> {
  const own = (table: string): RawBuilder<{ id: string }> => sql<{ id: string }>`
    select x.id from ${asked(ids)} cross join ${sql.table(table)} x on x.id = w.id
    where x.project_id = ${caller.projectId}`;
  switch (kind) {
    case 'part':
      return sql<{ id: string }>`select p.id from ${askedParts(ids)} where s.project_id = ${caller.projectId}`;
    case 'drive':
      return sql<{ id: string }>`${own('drives')} and x.state <> 'deleted'`;
    case 'machine':
      return sql<{ id: string }>`${own('machines')} union all ${own('departed_machines')}`;
    default:
      return own(tables[kind]);
  }
}

function grantedObjects(caller: Caller, kind: SharedKind, ids: readonly string[]): RawBuilder<Granted> {
  const granted = (on: 'machine' | 'drive' | 'snapshot' | 'image', id: RawBuilder<unknown>): RawBuilder<unknown> =>
    sql`(select g.access from grants g where g.user_id = ${caller.userId} and g.object_id = ${id}
      and g.object_kind = ${on} and g.project_id = ${caller.projectId})`;
  // Of 'ro' and 'rw' the greater says more.
  const most = (accesses: RawBuilder<unknown>[]): RawBuilder<unknown> =>
    sql`nullif(max(${sql.join(accesses.map((access) => sql`coalesce(${access}, '')`))}), '')`;
  switch (kind) {
    case 'snapshot': {
      const ofParts = sql`(select case when count(*) = 0 then (case when s.created_by = ${caller.userId}
            and s.state in ('creating', 'error', 'deleting') then 'rw' end)
          when count(a) = 0 then null when sum(a = 'rw') = count(*) then 'rw' else 'ro' end
        from (select ${granted('drive', sql`p.drive_id`)} as a from drive_snapshots p where p.snapshot_id = s.id) x)`;
      const all = [granted('snapshot', sql`s.id`), granted('machine', sql`s.machine_id`), ofParts];
      return sql<Granted>`select s.id, ${most(all)} as access from ${asked(ids)} cross join snapshots s on s.id = w.id
        where s.project_id = ${caller.projectId}`;
    }
    case 'part': {
      const all = [
        granted('drive', sql`p.drive_id`),
        granted('snapshot', sql`s.id`),
        granted('machine', sql`s.machine_id`),
      ];
      return sql<Granted>`select p.id, ${most(all)} as access from ${askedParts(ids)}
        where s.project_id = ${caller.projectId}`;
    }
    default:
      // A grant goes with its object.
      return sql<Granted>`select g.object_id as id, g.access from grants g where ${inList(sql`g.object_id`, ids)}
        and g.user_id = ${caller.userId} and g.object_kind = ${kind} and g.project_id = ${caller.projectId}`;
  }
}
