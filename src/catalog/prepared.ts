/**
 * Queries of the hot paths, compiled once per database: building and printing a query tree costs Kysely more than SQLite
 * needs to run it. The query is still written, typed and translated by Kysely; only its parameters change.
 */
import { type Compilable, type CompiledQuery, type RawBuilder, sql } from 'kysely';
import type { Db } from './catalog.ts';

class Placeholder {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

export type Param<P> = <K extends keyof P & string>(name: K) => RawBuilder<P[K]>;

/** Runs a prepared query with its parameters, inside a transaction or not. */
export type Prepared<P, R> = (db: Db, values: P) => Promise<R[]>;

/**
 * `prepare<{ id: DriveId }>()((db, p) => db.selectFrom('drives').selectAll().where('id', '=', p('id')))`.
 * The number of values in a list is part of the text, so a query with a list cannot be prepared.
 */
export function prepare<P extends object>() {
  return <R>(build: (db: Db, param: Param<P>) => Compilable<R>): Prepared<P, R> => {
    const compiledFor = new WeakMap<object, CompiledQuery<R>>();
    return async (db, values) => {
      const adapter = db.getExecutor().adapter;
      let compiled = compiledFor.get(adapter);
      if (compiled === undefined) {
        compiled = build(db, (name) => sql`${new Placeholder(name)}`).compile();
        compiledFor.set(adapter, compiled);
      }
      const parameters = compiled.parameters.map((value) =>
        value instanceof Placeholder ? Reflect.get(values, value.name) : value,
      );
      return (await db.executeQuery<R>({ ...compiled, parameters })).rows;
    };
  };
}
