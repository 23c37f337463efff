/**
 * Parts of names are what no index finds. So the names of the snapshots of a project, folded, are kept in memory from the
 * first search on, and searched there some five times as fast as the database does. Triggers note what changes, in the
 * transactions that change it, for the next search to read again. Small projects are not worth it, very large ones too large.
 */
import type { DatabaseSync } from 'node:sqlite';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { sql } from 'kysely';
import type { ProjectId } from '../core/ids.ts';
import type { Db } from './catalog.ts';
import { inList } from './page.ts';
import { totalOf } from './snapshot-totals.ts';

/** Some 60 bytes each. */
const maxNames = 300_000;
const maxBooks = 4;
/** Noted changes, of all projects; with more, reading anew costs less. */
const maxNoted = 50_000;
const readAtOnce = 10_000;
/** Nobody counts as few more. */
const maxFound = 10_000;

/** Call once per connection, after migrations. */
export function createNameNotes(raw: DatabaseSync): void {
  const isNoted = (row: string): string =>
    `exists (select 1 from noted_projects n where n.project_id = ${row}.project_id)`;
  const note = (row: string): string => `
    insert into noted_names (project_id, number) values (${row}.project_id, ${row}.number);
    delete from noted_projects
      where (select max(seq) from noted_names) - (select min(seq) from noted_names) > ${maxNoted};`;
  raw.exec(`
    create temp table noted_projects (project_id text primary key) without rowid;
    create temp table noted_names (seq integer primary key autoincrement, project_id text not null, number integer not null);
    create temp trigger notes_ended after delete on noted_projects when not exists (select 1 from noted_projects)
      begin delete from noted_names; end;
    create temp trigger name_added after insert on main.snapshots when ${isNoted('new')} begin ${note('new')} end;
    create temp trigger name_removed after delete on main.snapshots when ${isNoted('old')} begin ${note('old')} end;
    create temp trigger name_changed after update of name on main.snapshots
      when old.name <> new.name and ${isNoted('new')} begin ${note('new')} end;
  `);
}

export interface FoundNames {
  /** Of the snapshots, ascending; undefined when they are more than `few`. */
  readonly numbers: readonly number[] | undefined;
  readonly count: number;
}

/** Snapshots of a project with a part of a name, without regard to the case of ASCII; undefined when that is not known here. */
export async function namesContaining(
  db: Db,
  projectId: ProjectId,
  part: string,
  few: number,
): Promise<FoundNames | undefined> {
  const names = await totalOf(db, projectId);
  if (names <= few || names > maxNames) return undefined;
  const { adapter } = db.getExecutor();
  const shelf = shelves.get(adapter) ?? new Map<ProjectId, Promise<Book>>();
  shelves.set(adapter, shelf);
  const book = await bookOf(db, shelf, projectId);
  return book.search(fold(part), few);
}

const shelves = new WeakMap<object, Map<ProjectId, Promise<Book>>>();

async function bookOf(db: Db, shelf: Map<ProjectId, Promise<Book>>, projectId: ProjectId): Promise<Book> {
  const known = shelf.get(projectId);
  if (known !== undefined) {
    const book = await known;
    if (await book.update(db)) return book;
    if (shelf.get(projectId) === known) shelf.delete(projectId);
  }
  const reading = shelf.get(projectId) ?? Book.read(db, projectId);
  shelf.delete(projectId);
  shelf.set(projectId, reading);
  const [oldest] = shelf.keys();
  if (shelf.size > maxBooks && oldest !== undefined) {
    shelf.delete(oldest);
    await sql`delete from noted_projects where project_id = ${oldest}`.execute(db);
  }
  try {
    return await reading;
  } catch (error) {
    if (shelf.get(projectId) === reading) shelf.delete(projectId);
    throw error;
  }
}

interface Named {
  readonly number: number;
  readonly name: string;
}

interface Found {
  readonly part: string;
  readonly seen: number;
  /** The first of them. */
  readonly numbers: readonly number[];
  readonly count: number;
}

/** The names of one project, by number. One that went leaves an empty name, which nobody has. */
class Book {
  readonly #projectId: ProjectId;
  readonly #numbers: number[] = [];
  readonly #names: string[] = [];
  /** The last note that was followed. */
  #seen: number;
  /** The last search: a page and its total come one after the other. */
  #last: Found = { part: '', seen: -1, numbers: [], count: 0 };

  private constructor(projectId: ProjectId, seen: number) {
    this.#projectId = projectId;
    this.#seen = seen;
  }

  /** In turns with others. What changes meanwhile is noted. */
  static async read(db: Db, projectId: ProjectId): Promise<Book> {
    await sql`insert into noted_projects values (${projectId}) on conflict do nothing`.execute(db);
    const { rows } = await sql<{ last: number | null }>`select max(seq) as last from noted_names`.execute(db);
    const book = new Book(projectId, rows[0]?.last ?? 0);
    for (let after = 0; ; ) {
      const names = await sql<Named>`
        select s.number, lower(s.name) as name from snapshots as s indexed by snapshots_by_number
        where s.project_id = ${projectId} and s.number > ${after} order by s.number limit ${readAtOnce}`.execute(db);
      for (const { number, name } of names.rows) book.#set(number, name);
      const last = names.rows.at(-1);
      if (last === undefined || names.rows.length < readAtOnce) break;
      after = last.number;
      await nextTurn();
    }
    await book.update(db);
    return book;
  }

  /** Follows the notes. @returns false when there are none for this project any more, and it must be read again */
  async update(db: Db): Promise<boolean> {
    const state = await sql<{ noted: number; last: number | null }>`
      select exists (select 1 from noted_projects where project_id = ${this.#projectId}) as noted,
        (select max(seq) from noted_names) as last`.execute(db);
    const { noted = 0, last = null } = state.rows[0] ?? {};
    if (noted === 0) return false;
    if (last === null || last <= this.#seen) return true;
    const notes = await sql<{ number: number }>`
      select distinct number from noted_names
      where seq > ${this.#seen} and seq <= ${last} and project_id = ${this.#projectId}`.execute(db);
    const changed = new Map(notes.rows.map((row) => [row.number, '']));
    const names = await sql<Named>`select s.number, lower(s.name) as name from snapshots as s not indexed
      where ${inList(sql`s.number`, [...changed.keys()])}`.execute(db);
    for (const { number, name } of names.rows) changed.set(number, name);
    for (const number of [...changed.keys()].sort((a, b) => a - b)) this.#set(number, changed.get(number) ?? '');
    this.#seen = Math.max(this.#seen, last);
    return true;
  }

  #set(number: number, name: string): void {
    const end = this.#numbers.length;
    // As nearly always: numbers grow.
    if (end === 0 || number > (this.#numbers[end - 1] ?? 0)) {
      this.#numbers.push(number);
      this.#names.push(name);
      return;
    }
    let low = 0;
    let high = end - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#numbers[middle] ?? 0) < number) low = middle + 1;
      else high = middle;
    }
    const known = this.#numbers[low] === number;
    this.#numbers.splice(low, known ? 1 : 0, number);
    this.#names.splice(low, known ? 1 : 0, name);
  }

  search(part: string, few: number): FoundNames {
    if (this.#last.part !== part || this.#last.seen !== this.#seen) this.#last = this.#searchAll(part);
    const { numbers, count } = this.#last;
    return { numbers: count <= few && count <= maxFound ? numbers : undefined, count };
  }

  #searchAll(part: string): Found {
    const numbers: number[] = [];
    let count = 0;
    const names = this.#names;
    for (let at = 0; at < names.length; at++) {
      if (names[at]?.includes(part) !== true || names[at] === '') continue;
      count += 1;
      if (count <= maxFound) numbers.push(this.#numbers[at] ?? 0);
    }
    return { part, seen: this.#seen, numbers, count };
  }
}

function fold(part: string): string {
  return part.toWellFormed().replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}
