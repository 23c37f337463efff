/** Conditions, orders and pages at random, over fields and the values that some objects have in them. */
import fc from 'fast-check';
import type { Condition, FieldValue, Query } from '../../core/query.ts';

const junk: readonly FieldValue[] = [
  '',
  'nothing',
  '\0',
  'a\ud800',
  '5',
  5,
  -1,
  0.5,
  Number.NaN,
  Infinity,
  true,
  false,
];
export const patterns = ['^w', 'b$', '[0-9]', 'e.b', '', '語', 'A|B'];

const stored = (value: FieldValue): FieldValue => (typeof value === 'string' ? value.toWellFormed() : value);

/** Tests of a field, with values that some object has and values that none has. */
export function testsOf(field: string, known: readonly FieldValue[]): fc.Arbitrary<Condition> {
  const all = [...junk, ...known];
  // Mostly what may be met.
  const values =
    known.length === 0
      ? fc.constantFrom(...junk)
      : fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...known) }, fc.constantFrom(...junk));
  const texts = fc.constantFrom(...all.filter((value) => typeof value === 'string'));
  const cut = fc.tuple(texts, fc.nat(4), fc.nat(4)).map(([text, from, length]) => text.slice(from, from + length));
  const like = fc.oneof(
    fc.tuple(texts, fc.nat(4)).map(([text, length]) => `${text.slice(0, length)}*`),
    fc.array(fc.oneof(fc.constant('*'), cut, texts), { maxLength: 4 }).map((pieces) => pieces.join('')),
  );
  const of = fc.constant(field);
  const arbitrary = fc.oneof(
    fc.record({ field: of, op: fc.constantFrom('eq', 'ne', 'lt', 'le', 'gt', 'ge'), value: values.map(stored) }),
    fc.record({ field: of, op: fc.constant('in'), values: fc.array(values, { maxLength: 4 }) }),
    fc.record({ field: of, op: fc.constantFrom('isNull', 'isNotNull') }),
    fc.record({ field: of, op: fc.constant('like'), value: like.map((text) => text.toWellFormed()) }),
    fc.record({ field: of, op: fc.constant('contains'), value: cut.map((text) => text.toWellFormed()) }),
    fc.record({ field: of, op: fc.constant('matches'), value: fc.constantFrom(...patterns), ignoreCase: fc.boolean() }),
  );
  return arbitrary as fc.Arbitrary<Condition>;
}

/** `tag` is filtered by, not sorted by. */
export function queriesOf(fields: ReadonlyMap<string, readonly FieldValue[]>): fc.Arbitrary<Query> {
  const test = fc.constantFrom(...fields).chain(([field, known]) => testsOf(field, known));
  const { condition } = fc.letrec<{ condition: Condition }>((tie) => ({
    condition: fc.oneof(
      { maxDepth: 4, depthSize: 'small' },
      test,
      fc.record({ all: fc.array(tie('condition'), { maxLength: 3 }) }),
      fc.record({ any: fc.array(tie('condition'), { maxLength: 3 }) }),
      fc.record({ not: tie('condition') }),
    ),
  }));
  const key = fc.record(
    {
      by: fc.constantFrom(...[...fields.keys()].filter((field) => field !== 'tag')),
      order: fc.constantFrom('asc', 'desc'),
      ignoreCase: fc.boolean(),
    },
    { requiredKeys: ['by'] },
  );
  const query = fc.record(
    {
      where: condition,
      sort: fc.array(key, { maxLength: 3 }),
      offset: fc.nat(20),
      limit: fc.option(fc.nat(30), { nil: null }),
    },
    { requiredKeys: [] },
  );
  return query as fc.Arbitrary<Query>;
}

/** What clients of lists of snapshots and volumes ask for: some tests that must all be met, one order. */
export function usualQueriesOf(fields: ReadonlyMap<string, readonly FieldValue[]>): fc.Arbitrary<Query> {
  const valuesOf = (field: string): fc.Arbitrary<FieldValue> => fc.constantFrom(...(fields.get(field) ?? ['none']));
  const record = (field: string, op: string, value: fc.Arbitrary<FieldValue>) =>
    fc.record({ field: fc.constant(field), op: fc.constant(op), value });
  const sometimes = (percent: number, test: fc.Arbitrary<unknown>): fc.Arbitrary<unknown[]> =>
    fc.tuple(fc.nat(99), test).map(([drawn, one]) => (drawn < percent ? [one] : []));
  const states = fc.oneof(
    record('state', 'eq', valuesOf('state')),
    record('state', 'ne', valuesOf('state')),
    fc.record({
      field: fc.constant('state'),
      op: fc.constant('in'),
      values: fc.array(valuesOf('state'), { maxLength: 3 }),
    }),
  );
  const ofOwners = [...fields.keys()]
    .filter((field) => ['machineId', 'machineNumber', 'driveId', 'driveNumber'].includes(field))
    .map((field) => record(field, 'eq', valuesOf(field)));
  const cut = (from: number, to: number, after: string) =>
    valuesOf('name').map((name) => `${[...String(name)].slice(from, to).join('')}${after}`);
  const names = [
    record('name', 'eq', valuesOf('name')),
    record('name', 'like', cut(0, 2, '*')),
    record('name', 'contains', cut(1, 2, '')),
  ];
  const anyName = fc.record({ any: fc.array(fc.oneof(...names), { minLength: 2, maxLength: 4 }) });
  const tags = fc.array(record('tag', 'eq', valuesOf('tag')), { minLength: 1, maxLength: 2 }).map((all) => ({ all }));
  const all = fc
    .tuple(
      sometimes(40, states),
      sometimes(50, fc.oneof(...ofOwners)),
      sometimes(30, fc.oneof(...names, anyName)),
      sometimes(15, fc.record({ not: fc.oneof(...names) })),
      sometimes(
        20,
        fc.oneof(record('createdAt', 'ge', valuesOf('createdAt')), record('createdAt', 'gt', valuesOf('createdAt'))),
      ),
      sometimes(
        20,
        fc.oneof(record('createdAt', 'lt', valuesOf('createdAt')), record('createdAt', 'le', valuesOf('createdAt'))),
      ),
      sometimes(15, tags),
      sometimes(15, record('description', 'contains', cut(0, 3, ''))),
    )
    .map((tests) => ({ all: tests.flat() }));
  const key = fc.record(
    { by: fc.constantFrom('number', 'createdAt', 'name', 'state'), order: fc.constantFrom('asc', 'desc') },
    { requiredKeys: ['by'] },
  );
  const query = fc.record(
    {
      where: all,
      sort: fc.array(key, { maxLength: 1 }),
      offset: fc.constantFrom(0, 1, 40),
      limit: fc.constantFrom(1, 20),
    },
    { requiredKeys: ['where', 'sort'] },
  );
  return query as fc.Arbitrary<Query>;
}

/** What clients of lists of tasks ask for. */
export function usualTaskQueriesOf(fields: ReadonlyMap<string, readonly FieldValue[]>): fc.Arbitrary<Query> {
  const test = (field: string): fc.Arbitrary<Condition> => {
    const values = fc.constantFrom(...(fields.get(field) ?? ['none']));
    return fc.oneof(
      fc.record({ field: fc.constant(field), op: fc.constantFrom('eq' as const, 'ne' as const), value: values }),
      fc.record({
        field: fc.constant(field),
        op: fc.constant('in' as const),
        values: fc.array(values, { maxLength: 3 }),
      }),
    );
  };
  const where = fc.oneof(
    test('state'),
    test('userId'),
    fc.tuple(fc.constantFrom('state', 'userId', 'userName', 'kind').chain(test), test('state')).map((all) => ({ all })),
  );
  const order = fc.constantFrom('asc' as const, 'desc' as const);
  const sort = order.map((one) => [{ by: 'number' as const, order: one }]);
  return fc.record({ where, sort, offset: fc.constantFrom(0, 3), limit: fc.constant(20) }) as fc.Arbitrary<Query>;
}
