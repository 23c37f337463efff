import fc from 'fast-check';
import type { FastifyRequest } from 'fastify';
import { describe, expect, it } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import { Fields, idOf, queryText, readBody, readListRequest, rewriteUrl } from './parse.ts';

/** As a handler gets it: only what parsing reads of a request. */
function requestOf(parts: { query?: unknown; body?: Buffer }): FastifyRequest {
  const request: unknown = { query: {}, ...parts };
  return request as FastifyRequest;
}

/** @throws everything but a refusal of what was sent */
function refusalOf(work: () => unknown): CalotypeError | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof CalotypeError && error.status < 500) return error;
    throw error;
  }
}

describe('an address', () => {
  it.each([
    ['/api/v2/environments', '/api/v2/environments'],
    ['/api/v1/environments', '/api/v2/environments'],
    ['/v1/environments', '/api/v2/environments'],
    ['/v1//services//compute/default/volumes?', '/api/v2/services/compute/default/volumes'],
    ['/v1//services/c/e/volumes/?type=OS', '/api/v2/services/c/e/volumes?type=OS'],
    ['/api/v2/x?path=a//b/', '/api/v2/x?path=a//b/'],
    ['/v1', '/api/v2'],
    ['/v12/x', '/v12/x'],
    ['/api/v10/x', '/api/v10/x'],
    ['/', '/'],
    ['//', '/'],
    ['', ''],
    ['?', ''],
  ])('%s is served as %s', (sent, served) => {
    expect(rewriteUrl(sent)).toBe(served);
  });

  it('any at all is rewritten once', () => {
    fc.assert(
      fc.property(fc.string(), (url) => {
        const once = rewriteUrl(`/${url}`);
        expect(once.split('?')[0]).not.toMatch(/\/\//);
        if (!once.includes('?')) expect(rewriteUrl(once)).toBe(once);
      }),
    );
  });
});

describe('a body', () => {
  const anyBody = fc.oneof(
    fc.json().map((text) => Buffer.from(text)),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    fc
      .constantFrom('', 'null', '{}', '[]', '{"__proto__":1}', `${'['.repeat(100)}`, '{"a":1e999}', '"\\ud800"')
      .map((text) => Buffer.from(text)),
  );

  it('is an object or refused', () => {
    fc.assert(
      fc.property(anyBody, (body) => {
        const refusal = refusalOf(() => readBody(requestOf({ body })));
        expect(refusal?.status ?? 400).toBe(400);
      }),
    );
  });

  it('gives what was asked for in its type, or refuses', () => {
    const names = ['name', 'constructor', '__proto__', 'toString', 'length'];
    fc.assert(
      fc.property(
        fc.dictionary(fc.constantFrom(...names), fc.anything()),
        fc.constantFrom(...names),
        (values, name) => {
          const fields = new Fields(values);
          for (const [read, type] of [
            [() => fields.text(name), 'string'],
            [() => fields.flag(name), 'boolean'],
            [() => fields.integer(name), 'number'],
          ] as const) {
            const refusal = refusalOf(() => {
              const value = read();
              expect(['undefined', type]).toContain(typeof value);
              if (typeof value === 'number') expect(Number.isSafeInteger(value) && value > 0).toBe(true);
            });
            if (refusal !== undefined) expect(refusal.details.field).toBe(name);
          }
          refusalOf(() => fields.texts(name).map((text) => text.length));
          refusalOf(() => fields.nested(name).text(name));
          refusalOf(() => fields.requiredText(name).length);
        },
      ),
    );
  });

  it('says nothing by null, and zero leaves a number out', () => {
    const fields = new Fields({ name: null, rapid: null, sizeInGb: 0, ids: null, snapshot: null });
    expect([fields.text('name'), fields.flag('rapid'), fields.integer('sizeInGb')]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(fields.texts('ids')).toEqual([]);
    expect(fields.nested('snapshot').text('name')).toBeUndefined();
  });
});

describe('a query', () => {
  it('of several values gives the first, of an empty one none', () => {
    const request = requestOf({ query: { several: ['a', 'b'], empty: '', none: [], one: 'x' } });
    expect(['several', 'empty', 'none', 'one', 'toString'].map((name) => queryText(request, name))).toEqual([
      'a',
      undefined,
      undefined,
      'x',
      undefined,
    ]);
  });

  it('of any page and order is read or refused', () => {
    const value = fc.oneof(
      fc.string(),
      fc.integer().map(String),
      fc.array(fc.string()),
      fc.constantFrom('name', 'ASC'),
    );
    const query = fc.record(
      { page_size: value, page_number: value, sort_by: value, sort_order: value },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(query, (given) => {
        refusalOf(() => {
          const { page, sort } = readListRequest(requestOf({ query: given }), { name: 'name' });
          if (page !== null) expect(page.size * page.number).toBeGreaterThan(0);
          if (sort !== null) expect(sort.by).toBe('name');
        });
      }),
    );
  });
});

describe('an id', () => {
  it('that is none is missing', () => {
    const id = '0d5b5c1e-3a0f-4a51-a7c0-2f6f6a3bb001';
    expect(idOf('drive', id)).toBe(id);
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.constantFrom(id.toUpperCase(), `${id} `, `${id}\n`)), (text) => {
        expect(refusalOf(() => idOf('drive', text))?.code).toBe('not_found');
      }),
    );
  });
});
