/**
 * The embedded database: Kysely's SQLite dialect over `node:sqlite`. One connection, WAL, synchronous FULL, so that a
 * committed transaction survives a power failure. Prepared statements are kept, since the service repeats a few dozen.
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { SqliteDialect, type SqliteStatement } from 'kysely';

const cachedStatements = 500;

/** Counts statements that may have changed something, so that readers can tell whether what they remember still holds. */
export interface Generation {
  value: number;
}

const readsOnly = /^\s*(select|begin|commit|rollback|savepoint|release|with\b(?!.*\b(insert|update|delete)\b))/is;

class Statement implements SqliteStatement {
  readonly reader: boolean;
  readonly #statement: StatementSync;
  readonly #generation: Generation | null;
  constructor(statement: StatementSync, sql: string, generation: Generation) {
    this.#statement = statement;
    this.reader = statement.columns().length > 0;
    this.#generation = readsOnly.test(sql) ? null : generation;
  }
  all(parameters: readonly unknown[]): unknown[] {
    if (this.#generation !== null) this.#generation.value++;
    return this.#statement.all(...(parameters as readonly SQLInputValue[]));
  }
  run(parameters: readonly unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint } {
    if (this.#generation !== null) this.#generation.value++;
    return this.#statement.run(...(parameters as readonly SQLInputValue[]));
  }
  iterate(parameters: readonly unknown[]): IterableIterator<unknown> {
    return this.#statement.iterate(...(parameters as readonly SQLInputValue[]));
  }
}

export interface SqliteHandle {
  dialect: SqliteDialect;
  /** The connection itself, for migrations and pragmas only. */
  raw: DatabaseSync;
  generation: Generation;
}

export function openSqlite(path: string): SqliteHandle {
  const raw = new DatabaseSync(path, { enableForeignKeyConstraints: true, timeout: 2000 });
  raw.exec(`
    pragma journal_mode = wal;
    pragma synchronous = full;
    pragma cache_size = -65536;
    pragma temp_store = memory;
    pragma journal_size_limit = 67108864;
  `);
  const generation: Generation = { value: 0 };
  const statements = new Map<string, Statement>();
  const prepare = (sql: string): Statement => {
    const known = statements.get(sql);
    if (known !== undefined) return known;
    const statement = new Statement(raw.prepare(sql), sql, generation);
    if (statements.size >= cachedStatements) {
      const oldest = statements.keys().next().value;
      if (oldest !== undefined) statements.delete(oldest);
    }
    statements.set(sql, statement);
    return statement;
  };
  return { raw, generation, dialect: new SqliteDialect({ database: { prepare, close: () => raw.close() } }) };
}
