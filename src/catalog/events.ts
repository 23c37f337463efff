/** The audit log: read in the order of its sequence numbers, cut off at its old end. */
import type { Db } from './catalog.ts';
import { prepare } from './prepared.ts';
import type { EventRow } from './schema.ts';

const after = prepare<{ seq: number; limit: number }>()((db, p) =>
  db.selectFrom('events').selectAll().where('seq', '>', p('seq')).orderBy('seq').limit(p('limit')),
);

export async function eventsAfter(db: Db, seq: number, limit: number): Promise<EventRow[]> {
  return after(db, { seq, limit });
}

const last = prepare<object>()((db) => db.selectFrom('events').select('seq').orderBy('seq', 'desc').limit(1));

export async function lastEventSeq(db: Db): Promise<number> {
  return (await last(db, {}))[0]?.seq ?? 0;
}

export async function eventsOfObject(db: Db, objectId: string, afterSeq: number, limit: number): Promise<EventRow[]> {
  return db
    .selectFrom('events')
    .selectAll()
    .where('object_id', '=', objectId)
    .where('seq', '>', afterSeq)
    .orderBy('seq')
    .limit(limit)
    .execute();
}

const pruneAtOnce = 1000;

/** Removes up to a thousand events from before `beforeUs`, oldest first. Returns whether there may be more. */
export async function pruneEvents(db: Db, beforeUs: number): Promise<boolean> {
  const oldest = await db.selectFrom('events').select(['seq', 'at']).orderBy('seq').limit(pruneAtOnce).execute();
  const old = oldest.filter((row) => row.at < beforeUs);
  const upTo = old.at(-1)?.seq;
  if (upTo === undefined) return false;
  await db.deleteFrom('events').where('seq', '<=', upTo).where('at', '<', beforeUs).execute();
  return old.length === pruneAtOnce;
}
