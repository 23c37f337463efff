/**
 * The catalog: durable records of everything the service knows. Opened once per server; every change goes through
 * `write`, one transaction, committed to disk before it resolves. Queries of one noun live in the file of that noun.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import { Kysely, sql, type Transaction } from 'kysely';
import { CalotypeError } from '../core/errors.ts';
import { nowUs } from '../core/time.ts';
import { migrations } from './migrations.ts';
import { createNameNotes } from './name-book.ts';
import { createObjectCounts } from './object-counts.ts';
import { prepare } from './prepared.ts';
import type { Schema } from './schema.ts';
import { createTotals } from './snapshot-totals.ts';
import { type Generation, openSqlite } from './sqlite.ts';

/** A transaction of the catalog. Work inside it must await nothing but the catalog. */
export type Tx = Transaction<Schema>;

/** Queries that do not mind whether they run inside a transaction. */
export type Db = Kysely<Schema> | Tx;

/** Lets a caller put its own records into the transaction that makes an engine's change durable. */
export type CommitHook = (tx: Tx) => Promise<void>;

interface Waiting {
  readonly mayUseReserve: boolean;
  run(tx: Tx): Promise<void>;
  committed(): void;
  failed(error: unknown): void;
}

/** A version 4 UUID in lower case, as SQLite can make one. */
const randomUuid = `lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
  || substr('89ab', 1 + abs(random() % 4), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))`;

/** More than this in one commit would make the first of them wait. */
const maxBatch = 64;

export class Catalog {
  readonly db: Kysely<Schema>;
  readonly #close: () => Promise<void>;
  readonly #waiting: Waiting[] = [];
  #writing = false;
  #relieve: () => Promise<boolean> = async () => false;

  readonly #generation: Generation;

  private constructor(db: Kysely<Schema>, generation: Generation, close: () => Promise<void>) {
    this.db = db;
    this.#generation = generation;
    this.#close = close;
  }

  /** Grows with every statement that may change a row. What was read at one generation still holds at the same one. */
  get generation(): number {
    return this.#generation.value;
  }

  /**
   * Opens or creates `<directory>/catalog.db` and brings it up to date.
   * @throws CalotypeError `catalog_too_new`, `catalog_damaged`
   */
  static async open(directory: string): Promise<Catalog> {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const path = join(directory, 'catalog.db');
    const { dialect, raw, generation } = openForUse(path);
    const row = raw.prepare('pragma user_version').get();
    const version = Number(row?.user_version ?? 0);
    if (version > migrations.length) {
      raw.close();
      throw new CalotypeError(
        'catalog_too_new',
        `The catalog ${path} is at version ${version}; this program knows up to ${migrations.length}.`,
        { remedy: 'Start it with the newer program that wrote it.' },
      );
    }
    migrate(raw, version, migrations.length);
    createTotals(raw);
    createObjectCounts(raw);
    createNameNotes(raw);
    const db = new Kysely<Schema>({ dialect });
    return new Catalog(db, generation, () => db.destroy());
  }

  /**
   * Runs `work` in one transaction; durable when it resolves, without effect when it throws. Calls that come while another
   * is being written share one commit with each other, each behind a savepoint of its own. With `mayUseReserve`, for what
   * gives space back, a full disk is met by giving up the reserve.
   */
  write<T>(work: (tx: Tx) => Promise<T>, options: { mayUseReserve?: boolean } = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let result: { value: T } | undefined;
      this.#waiting.push({
        mayUseReserve: options.mayUseReserve ?? false,
        run: async (tx) => {
          result = { value: await work(tx) };
        },
        committed: () => {
          if (result !== undefined) resolve(result.value);
        },
        failed: reject,
      });
      if (this.#writing) return;
      this.#writing = true;
      setImmediate(() => void this.#writeBatch());
    });
  }

  /** A commit holds the thread up, so that what has come meanwhile is read first: it shares the next one. */
  async #writeBatch(): Promise<void> {
    const batch = this.#waiting.splice(0, maxBatch);
    try {
      const done = await this.#commit(batch);
      for (const one of done) one.committed();
    } catch (error) {
      for (const one of batch) one.failed(error);
    }
    if (this.#waiting.length > 0) setImmediate(() => void this.#writeBatch());
    else this.#writing = false;
  }

  async #commit(batch: readonly Waiting[]): Promise<Waiting[]> {
    const attempt = (): Promise<Waiting[]> => this.db.transaction().execute((tx) => runBatch(tx, batch));
    try {
      return await attempt();
    } catch (error) {
      const mayRelieve = isSpaceExhausted(error) && batch.some((one) => one.mayUseReserve);
      if (!mayRelieve || !(await this.#relieve())) throw error;
      return attempt();
    }
  }

  /** Names who can make room on a full disk, so that a transaction that met one is tried once more. */
  relieveBy(relieve: () => Promise<boolean>): void {
    this.#relieve = relieve;
  }

  async setting(key: string): Promise<string | undefined> {
    const row = await this.db.selectFrom('settings').select('value').where('key', '=', key).executeTakeFirst();
    return row?.value;
  }

  async close(): Promise<void> {
    await this.#close();
  }
}

const words: Record<string, string> = {
  serial: 'integer primary key autoincrement',
  bigint: 'integer',
  blob: 'blob',
  clustered: ' without rowid',
  uuid: randomUuid,
};

/** Brings a database from one version to a later one. */
export function migrate(raw: DatabaseSync, from: number, to: number): void {
  for (const [at, text] of migrations.slice(from, to).entries()) {
    const ours = text.replace(/\{\{(\w+)\}\}/g, (_, word: string) => words[word] ?? '');
    raw.exec(`begin immediate; ${ours} pragma user_version = ${from + at + 1}; commit;`);
  }
}

function isSpaceExhausted(error: unknown): boolean {
  return error instanceof CalotypeError && error.code === 'space_exhausted';
}

/** Runs each on its own; one that throws leaves nothing behind and does not stop the others. @returns those that went well */
async function runBatch(tx: Tx, batch: readonly Waiting[]): Promise<Waiting[]> {
  const [only] = batch;
  if (only !== undefined && batch.length === 1) {
    await only.run(tx);
    return [only];
  }
  const done: Waiting[] = [];
  for (const one of batch) {
    await sql`savepoint one`.execute(tx);
    try {
      await one.run(tx);
      await sql`release one`.execute(tx);
      done.push(one);
    } catch (error) {
      if (isSpaceExhausted(error)) throw error;
      await sql`rollback to one`.execute(tx);
      await sql`release one`.execute(tx);
      one.failed(error);
    }
  }
  return done;
}

function openForUse(path: string): ReturnType<typeof openSqlite> {
  try {
    return openSqlite(path);
  } catch (cause) {
    throw new CalotypeError('catalog_damaged', `The catalog ${path} cannot be opened.`, { path }, { cause });
  }
}

/** Stores or replaces one setting. */
export async function putSetting(tx: Db, key: string, value: string): Promise<void> {
  await tx
    .insertInto('settings')
    .values({ key, value })
    .onConflict((c) => c.column('key').doUpdateSet({ value }))
    .execute();
}

export interface NewEvent {
  projectId: Schema['events']['project_id'];
  userId: Schema['events']['user_id'];
  via: string;
  kind: string;
  objectKind: string;
  objectId: string;
  detail?: Readonly<Record<string, unknown>>;
}

const insertEvent = prepare<Required<Omit<NewEvent, 'detail'>> & { at: number; detail: string }>()((db, p) =>
  db.insertInto('events').values({
    at: p('at'),
    project_id: p('projectId'),
    user_id: p('userId'),
    via: p('via'),
    kind: p('kind'),
    object_kind: p('objectKind'),
    object_id: p('objectId'),
    detail_json: p('detail'),
  }),
);

/** Writes one line of the audit log; subscribers see it after the commit. */
export async function addEvent(tx: Db, event: NewEvent): Promise<void> {
  await insertEvent(tx, { ...event, at: nowUs(), detail: JSON.stringify(event.detail ?? {}) });
}
