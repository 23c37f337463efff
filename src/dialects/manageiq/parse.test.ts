import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import { linksOf } from './lists.ts';
import { actionOf, pageOf, parseParams, readId, referenceOf, resourcesOf, rewriteUrl } from './parse.ts';

describe('addresses', () => {
  test('slashes and version go', () => {
    expect(rewriteUrl('//api///vms//7/?a=//')).toBe('/api/vms/7?a=//');
    expect(rewriteUrl('/api/v4.4.0-pre/vms')).toBe('/api/vms');
    expect(rewriteUrl('/api/v1')).toBe('/api');
    expect(rewriteUrl('/api/vms?x')).toBe('/api/vms?x');
    expect(rewriteUrl('/api/v1x')).toBe('/api/v1x');
    expect(rewriteUrl('/')).toBe('/');
  });

  test('ids are digits', () => {
    expect(readId('0007', 'Vm')).toBe(7);
    for (const bad of ['', 'x', '-1', '1.0', '1e3', undefined])
      expect(() => readId(bad, 'Vm')).toThrow('Invalid Vm id');
  });
});

describe('query strings', () => {
  test('values are decoded once, blank ones are none', () => {
    const params = parseParams('filter[]=a%253D1&filter%5B%5D=b+c&filter[]=+&attributes=&expand=a,,b&hide=x&x=y');
    expect(params).toMatchObject({ filters: ['a%3D1', 'b c'], attributes: [], expand: ['a', 'b'], hide: ['x'] });
  });

  test('the last of several counts, but for filters', () => {
    expect(parseParams('limit=1&limit=2').limit).toBe('2');
  });

  test('pages', () => {
    expect(pageOf({ offset: '', limit: '' })).toEqual({ offset: 0, limit: 1000 });
    expect(pageOf({ offset: '5', limit: '99999' })).toEqual({ offset: 5, limit: 1000 });
  });

  test('links: the offset replaced where it stands, else appended', () => {
    const page = { offset: 4, limit: 2 };
    expect(linksOf('http://h/api/vms?offset=4&limit=2', page, 7)).toEqual({
      self: 'http://h/api/vms?offset=4&limit=2',
      next: 'http://h/api/vms?offset=6&limit=2',
      previous: 'http://h/api/vms?offset=2&limit=2',
      first: 'http://h/api/vms?offset=0&limit=2',
      last: 'http://h/api/vms?offset=6&limit=2',
    });
    expect(linksOf('http://h/api/vms', { offset: 0, limit: 1000 }, 0)).toEqual({
      self: 'http://h/api/vms?offset=0',
      first: 'http://h/api/vms?offset=0',
      last: 'http://h/api/vms?offset=0',
    });
  });

  test('whatever is sent, it is read or refused', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.webQueryParameters()), (query) => {
        try {
          pageOf(parseParams(query));
        } catch (error) {
          expect(error).toBeInstanceOf(CalotypeError);
          expect(error).toMatchObject({ code: 'invalid_request' });
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('bodies', () => {
  test('actions: nothing is a creation', () => {
    expect(actionOf({})).toBe('create');
    expect(actionOf({ action: null })).toBe('create');
    expect(actionOf({ action: 'delete' })).toBe('delete');
    expect(actionOf({ action: ['a'] })).toBe('["a"]');
  });

  test('resources, resource, or the body but for its action', () => {
    expect(resourcesOf({ resources: [1] })).toEqual({ items: [1], bulk: true });
    expect(resourcesOf({ action: 'x', resource: { a: 1 } })).toEqual({ items: [{ a: 1 }], bulk: false });
    expect(resourcesOf({ action: 'x', a: 1 })).toEqual({ items: [{ a: 1 }], bulk: false });
    expect(() => resourcesOf({ resources: { a: 1 } })).toThrow('array');
  });

  test('references: href first, then id', () => {
    const read = (resource: unknown) => referenceOf(resource, 'snapshots', 'Snapshot');
    expect(read({ href: 'http://h/api/vms/7/snapshots/31', id: 5 })).toBe(31);
    expect(read({ href: '/other/31', id: '5' })).toBe(5);
    expect(read({ id: 33 })).toBe(33);
    expect(read({ href: 'snapshots/31' })).toBeNull();
    for (const none of [null, 'x', 5, {}, { id: null }, { href: 5 }, [{ id: 1 }]]) expect(read(none)).toBeNull();
    for (const bad of ['abc', 1.5, -1, {}, true]) expect(() => read({ id: bad })).toThrow('Invalid Snapshot id');
  });

  test('whatever is referred to, it is a number, nothing or refused', () => {
    fc.assert(
      fc.property(fc.anything(), (resource) => {
        try {
          const number = referenceOf(resource, 'vms', 'Vm');
          expect(number === null || number >= 0).toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(CalotypeError);
        }
      }),
      { numRuns: 500 },
    );
  });
});
