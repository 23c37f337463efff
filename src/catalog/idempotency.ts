/** Idempotency keys: one per user and key, written with the change that the key stands for, kept for a day. */
import type { TaskId, UserId } from '../core/ids.ts';
import type { Db } from './catalog.ts';
import type { Schema } from './schema.ts';

export const idempotencyLifeUs = 24 * 3600 * 1_000_000;

type Row = Schema['idempotency'];

export async function findKey(db: Db, userId: UserId, key: string, now: number): Promise<Row | undefined> {
  return db
    .selectFrom('idempotency')
    .selectAll()
    .where('user_id', '=', userId)
    .where('key', '=', key)
    .where('created_at', '>=', now - idempotencyLifeUs)
    .executeTakeFirst();
}

/** Fails with the database's own unique violation when the key is taken; see `isUniqueViolation`. */
export async function insertKey(
  tx: Db,
  row: {
    userId: UserId;
    key: string;
    requestHash: string;
    taskId: TaskId | null;
    objectKind: string | null;
    objectId: string | null;
    at: number;
  },
): Promise<void> {
  await tx
    .deleteFrom('idempotency')
    .where('user_id', '=', row.userId)
    .where('key', '=', row.key)
    .where('created_at', '<', row.at - idempotencyLifeUs)
    .execute();
  await tx
    .insertInto('idempotency')
    .values({
      user_id: row.userId,
      key: row.key,
      request_hash: row.requestHash,
      task_id: row.taskId,
      object_kind: row.objectKind,
      object_id: row.objectId,
      created_at: row.at,
    })
    .execute();
}

export async function pruneKeys(db: Db, now: number): Promise<void> {
  await db
    .deleteFrom('idempotency')
    .where('created_at', '<', now - idempotencyLifeUs)
    .execute();
}

/** SQLite's extended codes for a primary key and a unique index; PostgreSQL's SQLSTATE. */
export function isUniqueViolation(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if ('errcode' in error) return error.errcode === 1555 || error.errcode === 2067;
  return 'code' in error && error.code === '23505';
}
