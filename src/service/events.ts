/** The audit log and the live feed, as far as the caller may see. */
import { sql } from 'kysely';
import { eventsAfter, eventsOfObject } from '../catalog/events.ts';
import type { EventRow } from '../catalog/schema.ts';
import { CalotypeError } from '../core/errors.ts';
import type { CatalogEvent } from '../core/model.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import type { EventUseCases } from './interface.ts';
import { toEvent } from './objects.ts';
import { can } from './rights.ts';

const maxLimit = 1000;
const readAtOnce = 500;

export function eventUseCases(context: Context): EventUseCases {
  const { catalog, feed } = context;

  /** A guest sees what he did himself, and what happened to objects granted to him. */
  async function maySee(caller: Caller, event: EventRow): Promise<boolean> {
    if (event.project_id === null) return caller.role === 'operator';
    if (event.project_id !== caller.projectId) return false;
    if (caller.role !== 'guest' || event.user_id === caller.userId) return true;
    const kind = event.object_kind;
    if (kind !== 'machine' && kind !== 'drive' && kind !== 'snapshot' && kind !== 'image') return false;
    return can(caller, 'read', { projectId: event.project_id, kind, id: event.object_id }, catalog.db);
  }

  return {
    async list(caller, filter) {
      const limit = filter.limit ?? 100;
      if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
        throw new CalotypeError('invalid_request', `The limit must be 1 to ${maxLimit}.`, { field: 'limit' });
      }
      const found: CatalogEvent[] = [];
      let seq = filter.afterSeq ?? 0;
      while (found.length < limit) {
        const rows =
          filter.objectId === undefined
            ? await projectEvents(caller, seq)
            : await eventsOfObject(catalog.db, filter.objectId, seq, readAtOnce);
        for (const row of rows) {
          seq = row.seq;
          if (found.length < limit && (await maySee(caller, row))) found.push(toEvent(row));
        }
        if (rows.length < readAtOnce) break;
      }
      return found;
    },

    subscribe: (caller, afterSeq, onEvent) =>
      feed.subscribe(
        {
          async deliver(row) {
            if (await maySee(caller, row)) onEvent(toEvent(row));
          },
        },
        afterSeq,
      ),
  };

  async function projectEvents(caller: Caller, seq: number): Promise<EventRow[]> {
    if (caller.role === 'operator') return eventsAfter(catalog.db, seq, readAtOnce);
    return catalog.db
      .selectFrom('events')
      .selectAll()
      .where('project_id', '=', caller.projectId)
      .where(sql<boolean>`seq > ${seq}`)
      .orderBy('seq')
      .limit(readAtOnce)
      .execute();
  }
}
