/**
 * The embedded database: Kysely's SQLite dialect over `node:sqlite`. One connection, WAL, synchronous FULL, so that a
 * committed transaction survives a power failure. Prepared statements are kept, since the service repeats a few dozen.
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { SqliteDialect, type SqliteStatement } from 'kysely';

const cachedStatements = 500;

class Statement implements SqliteStatement {
  readonly reader: boolean;
  readonly #statement: StatementSync;
  constructor(statement: StatementSync) {
    this.#statement = statement;
    this.reader = statement.columns().length > 0;
  }
  all(parameters: readonly unknown[]): unknown[] {
    return this.#statement.all(...(parameters as readonly SQLInputValue[]));
  }
  run(parameters: readonly unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint } {
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
  const statements = new Map<string, Statement>();
  const prepare = (sql: string): Statement => {
    const known = statements.get(sql);
    if (known !== undefined) return known;
    const statement = new Statement(raw.prepare(sql));
    if (statements.size >= cachedStatements) {
      const oldest = statements.keys().next().value;
      if (oldest !== undefined) statements.delete(oldest);
    }
    statements.set(sql, statement);
    return statement;
  };
  return { raw, dialect: new SqliteDialect({ database: { prepare, close: () => raw.close() } }) };
}
