/**
 * The embedded database: Kysely's SQLite dialect over `node:sqlite`. One connection, WAL, synchronous FULL, so that a
 * committed transaction survives a power failure. Prepared statements are kept, since the service repeats a few dozen.
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { SqliteDialect, type SqliteStatement } from 'kysely';
import { asSpaceError } from '../core/space-error.ts';
import { registerFunctions } from './sql-functions.ts';

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
    try {
      return this.#statement.all(...(parameters as readonly SQLInputValue[]));
    } catch (error) {
      throw asSpaceError(error);
    }
  }
  run(parameters: readonly unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint } {
    if (this.#generation !== null) this.#generation.value++;
    try {
      return this.#statement.run(...(parameters as readonly SQLInputValue[]));
    } catch (error) {
      throw asSpaceError(error);
    }
  }
  iterate(parameters: readonly unknown[]): IterableIterator<unknown> {
    return this.#statement.iterate(...(parameters as readonly SQLInputValue[]));
  }
}

/** A rollback of what SQLite has rolled back by itself, as it does on a full disk, is done already. */
class Rollback extends Statement {
  readonly #raw: DatabaseSync;
  constructor(raw: DatabaseSync, sql: string, generation: Generation) {
    super(raw.prepare(sql), sql, generation);
    this.#raw = raw;
  }
  override run(parameters: readonly unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint } {
    return this.#raw.isTransaction ? super.run(parameters) : { changes: 0, lastInsertRowid: 0 };
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
  registerFunctions(raw);
  const generation: Generation = { value: 0 };
  const statements = new Map<string, Statement>();
  const prepare = (sql: string): Statement => {
    const known = statements.get(sql);
    if (known !== undefined) return known;
    const statement =
      sql === 'rollback' ? new Rollback(raw, sql, generation) : new Statement(raw.prepare(sql), sql, generation);
    if (statements.size >= cachedStatements) {
      const oldest = statements.keys().next().value;
      if (oldest !== undefined) statements.delete(oldest);
    }
    statements.set(sql, statement);
    return statement;
  };
  return { raw, generation, dialect: new SqliteDialect({ database: { prepare, close: () => raw.close() } }) };
}
