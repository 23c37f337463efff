/** One operation of a front door: how it is called on given objects, and what it takes. */
import type { DialectName } from '../../../src/dialects/dialect.ts';
import type { Answer, Call, Person } from '../dialect-rig.ts';
import type { Class, Need } from './oracle.ts';
import { type Key, type Kind, nothing, type Things } from './world.ts';

export interface Operation {
  /** As the framework writes it: `GET /api/vms/:id`. */
  readonly route: string;
  readonly needs: readonly Need[];
  readonly call: (things: Things) => Omit<Call, 'headers' | 'method'>;
  /** Refused for the state of the objects, or without effect, to whoever may: it can be tried on what is not to change. */
  readonly isHarmless?: true;
  /** Words and status of what may not be changed are those of what is not there. */
  readonly blurs?: true;
  /** For operators, objects of all projects are in reach. */
  readonly reachesAll?: true;
}

export interface List {
  readonly route: string;
  readonly path: string;
  readonly kind: Kind;
  /** Only these of the kind. */
  readonly only?: readonly Key[];
  /** What is shown. */
  readonly ids: (answer: Answer) => readonly string[];
  /** The counts in the answer: each is to be the number of what is shown. */
  readonly counts: (answer: Answer) => readonly unknown[];
}

export interface Table {
  readonly door: DialectName;
  readonly credentials: (person: Person) => Record<string, string>;
  /** How this dialect names an object. */
  readonly idOf: (things: Things, key: Key) => string;
  readonly operations: readonly Operation[];
  /** As they are asked for in a project. */
  readonly listsOf: (project: string) => readonly List[];
  /** Routes that show and change nothing that is anybody's, with the reason. */
  readonly exempt: Readonly<Record<string, string>>;
  readonly classOf: (answer: Answer) => Class;
}

/** By status alone. */
export function classByStatus({ status }: Answer): Class {
  return status === 404 ? 'missing' : status === 403 ? 'forbidden' : 'allowed';
}

/** What a call names: other objects come into it by themselves. */
export function keysOf({ needs, call }: Operation, things: Things): Key[] {
  const named = needs.flatMap((need) => (need.startsWith('touch') ? [] : (need.split(' ').slice(1) as Key[])));
  const plain = JSON.stringify(call(things));
  return [...new Set(named)].filter((key) => JSON.stringify(call({ ...things, [key]: nothing[key] })) !== plain);
}
