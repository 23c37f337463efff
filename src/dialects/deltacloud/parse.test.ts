/** Reading, without a server: whatever comes is understood or refused, and nothing else. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CalotypeError } from '../../core/errors.ts';
import { matrixOf, withoutMatrix } from './matrix.ts';
import { multipartBoundary, readMultipart } from './multipart.ts';
import { formats, negotiate } from './negotiation.ts';
import { maxParameters, mergeParameters, readForm, readUrlencoded } from './parameters.ts';
import { capacityBytes, deviceName, findProfile, GiB, idKinds, numberIn, wantedHardware, wireId } from './parse.ts';

const given = (fields: Record<string, string | null>) => new Map(Object.entries(fields));

/** Anything but a refusal in the catalogue's words is a defect. */
function refusesCleanly(read: () => unknown): void {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(CalotypeError);
    expect(error).toMatchObject({ code: 'invalid_request' });
  }
}

describe('ids', () => {
  it('are the number in hexadecimal, in one spelling', () => {
    expect(wireId('part', 0x7a1)).toBe('snap-7a1');
    expect(numberIn('part', 'snap-7a1')).toBe(0x7a1);
    for (const id of [
      'snap-07a1',
      'snap-7A1',
      'snap-',
      'snap-0',
      'snap7a1',
      'vol-7a1',
      'snap-7a1 ',
      'snap-ffffffffffffff',
      'snap--1',
      '',
    ]) {
      expect(numberIn('part', id), id).toBeUndefined();
    }
  });

  it('of any number lead back to it', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('part', 'drive', 'machine', 'image'),
        fc.integer({ min: 1, max: 2 ** 50 }),
        (kind, number) => {
          expect(wireId(kind, number)).toMatch(new RegExp(`^${idKinds[kind]}-[0-9a-f]+$`));
          expect(numberIn(kind, wireId(kind, number))).toBe(number);
        },
      ),
    );
  });

  it('of any text are those of a number, or none', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const number = numberIn('drive', text);
        if (number !== undefined) expect(wireId('drive', number)).toBe(text);
      }),
    );
  });
});

describe('negotiation', () => {
  it('never fails, and format decides when it has a value', () => {
    fc.assert(
      fc.property(fc.option(fc.string()), fc.option(fc.string(), { nil: undefined }), (wanted, accept) => {
        const format = negotiate(wanted, accept);
        expect(format === null || formats.includes(format)).toBe(true);
        if (wanted !== null) expect(format).toBe(formats.find((known) => known === wanted) ?? null);
      }),
    );
  });

  it('reads weights, without regard to case and blanks', () => {
    expect(negotiate(null, 'APPLICATION/XML ; Q = 0.5 , application/json ; q=0.4')).toBe('xml');
    expect(negotiate(null, 'application/xml;q=abc,application/json;q=0.9')).toBe('xml');
    expect(negotiate(null, 'application/xml;level=1;q=0.1,application/json;q=0.2')).toBe('json');
    expect(negotiate(null, ',,;,=')).toBeNull();
  });
});

describe('matrix parameters', () => {
  it('are told by segment, and taken away', () => {
    const url = '/api;driver=mock;provider=p%201/instances;image_id=img-1;x/inst-1?a=b;c=d';
    expect(withoutMatrix(url)).toBe('/api/instances/inst-1?a=b;c=d');
    expect(Object.fromEntries(matrixOf(url, 'api') ?? [])).toEqual({ driver: 'mock', provider: 'p 1' });
    expect(Object.fromEntries(matrixOf(url, 'instances') ?? [])).toEqual({ image_id: 'img-1' });
    expect(matrixOf(url, 'inst-1')).toBeUndefined();
    expect(matrixOf('/api/x?y=;driver=z', 'api')).toBeUndefined();
  });

  it('of any address leave one without', () => {
    fc.assert(
      fc.property(fc.webPath(), fc.string(), (path, rest) => {
        const url = `${path};${rest}`;
        const cleaned = withoutMatrix(url);
        expect(cleaned.split('?')[0]).not.toContain(';');
        matrixOf(url, 'api');
      }),
    );
  });
});

describe('parameters', () => {
  it('are flat, the last of a name counts, a name without = has no value', () => {
    const read = readUrlencoded('a=1&b&a=2&c=&=x&d=%41+%2B%zz&&__proto__=y');
    expect([...read]).toEqual([
      ['a', '2'],
      ['b', null],
      ['c', ''],
      ['', 'x'],
      ['d', 'A +%zz'],
      ['__proto__', 'y'],
    ]);
  });

  it('of later places win', () => {
    const merged = mergeParameters(given({ a: '1', b: '1' }), given({ b: '2', c: '2' }));
    expect([...merged]).toEqual([
      ['a', '1'],
      ['b', '2'],
      ['c', '2'],
    ]);
  });

  it('are bounded in number', () => {
    const many = Array.from({ length: maxParameters + 1 }, (_, i) => `p${i}=1`).join('&');
    expect(() => readUrlencoded(many)).toThrow(CalotypeError);
    expect(readUrlencoded(many.slice(0, many.lastIndexOf('&'))).size).toBe(maxParameters);
  });

  it('come from forms only', () => {
    const body = Buffer.from('a=1');
    for (const type of [
      'application/x-www-form-urlencoded',
      'Application/X-WWW-Form-Urlencoded; charset=utf-8',
      undefined,
    ]) {
      expect(readForm(body, type).get('a')).toBe('1');
    }
    for (const type of ['application/json', 'text/plain', 'application/xml']) expect(readForm(body, type).size).toBe(0);
  });

  it('of any bytes and type are texts, or refused', () => {
    const type = fc.oneof(
      fc.string(),
      fc.constantFrom('multipart/form-data; boundary=x', 'multipart/form-data', undefined),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), type, (bytes, contentType) => {
        refusesCleanly(() => {
          for (const [name, value] of readForm(Buffer.from(bytes), contentType)) {
            expect([typeof name, value === null || typeof value === 'string']).toEqual(['string', true]);
          }
        });
      }),
    );
  });
});

describe('multipart/form-data', () => {
  const part = (name: string, value: string, more = '') =>
    `--b\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n${value}\r\n`;
  const read = (text: string) => Object.fromEntries(readMultipart(Buffer.from(text), 'b', 10));

  it('holds fields as they are; files are passed over', () => {
    expect(read(`${part('a', '1\r\n2')}${part('ü"', 'é ')}${part('f', 'x', '; filename="x"')}--b--`)).toEqual({
      a: '1\r\n2',
      ü: 'é ',
    });
    expect(read(`preamble\r\n${part('a', '')}--b--\r\nepilogue`)).toEqual({ a: '' });
    expect(
      read(
        '--b\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION:form-data;name=a\r\n\r\n1\r\n--b  \r\nContent-Disposition: form-data; name="q\\"%22"\r\n\r\n2\r\n--b--',
      ),
    ).toEqual({ a: '1', 'q""': '2' });
  });

  it.each([
    ['no boundary in it', 'hello'],
    ['no end', part('a', '1')],
    ['a delimiter that does not end its line', '--bx\r\n\r\n\r\n--b--'],
    ['a part without a name', '--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--'],
    ['a part without headers', '--b\r\n\r\n1\r\n--b--'],
    ['headers without an end', '--b\r\nContent-Disposition: form-data; name="a"\r\n--b--'],
    [
      'headers that are too long',
      `--b\r\nX: ${'x'.repeat(9000)}\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--`,
    ],
    ['too many parts', Array.from({ length: 11 }, (_, i) => part(`a${i}`, '1')).join('')],
  ])('is refused with %s', (_, text) => {
    expect(() => read(text)).toThrow(CalotypeError);
  });

  it('names its boundary', () => {
    expect(multipartBoundary('multipart/form-data; boundary=abc')).toBe('abc');
    expect(multipartBoundary('multipart/form-data; charset=utf-8; BOUNDARY="a b;c"; x=y')).toBe('a b;c');
    for (const type of [
      'multipart/form-data',
      'multipart/form-data; boundary=',
      `multipart/form-data; boundary=${'x'.repeat(71)}`,
    ]) {
      expect(() => multipartBoundary(type)).toThrow(CalotypeError);
    }
  });

  it('comes back as it was written', () => {
    const field = fc.tuple(fc.stringMatching(/^[a-z_]{1,8}$/), fc.string({ unit: 'grapheme' }));
    fc.assert(
      fc.property(fc.array(field, { maxLength: 8 }), (fields) => {
        const kept = fields.map(([name, value]): [string, string] => [name, value.toWellFormed()]);
        fc.pre(!kept.some(([, value]) => value.includes('--b')));
        const body = `${kept.map(([name, value]) => part(name, value)).join('')}--b--\r\n`;
        expect(readMultipart(Buffer.from(body), 'b', 10)).toEqual(kept);
      }),
    );
  });
});

describe('sizes, devices and hardware', () => {
  it('capacity is in GB, whole or not', () => {
    expect(capacityBytes(given({ capacity: '10' }))).toBe(10 * GiB);
    expect(capacityBytes(given({ capacity: ' 0.5 ' }))).toBe(GiB / 2);
    for (const capacity of [undefined, null, '']) {
      expect(capacityBytes(capacity === undefined ? new Map() : given({ capacity }))).toBeUndefined();
    }
    for (const capacity of ['0', '0.0', '-1', '1e9', 'NaN', '0x10', '1,5', '.5', '1.', '٣', ' ']) {
      expect(() => capacityBytes(given({ capacity })), capacity).toThrow(CalotypeError);
    }
  });

  it('a device is a short name', () => {
    expect(deviceName(given({ device: '/dev/sdh1' }))).toBe('/dev/sdh1');
    expect(deviceName(given({ device: null }))).toBeUndefined();
    for (const device of ['a b', 'a\nb', '<x>', 'x'.repeat(65)]) {
      expect(() => deviceName(given({ device })), device).toThrow(CalotypeError);
    }
  });

  it('hardware is that of a profile, or within its ranges', () => {
    expect(findProfile('c2-m2048')?.fixed).toEqual({ cpus: 2, memoryMiB: 2048 });
    expect(findProfile('custom')?.fixed).toBeNull();
    expect(wantedHardware(new Map())).toEqual({});
    expect(wantedHardware(given({ hwp_id: 'c2-m2048', hwp_cpu: '2' }))).toEqual({ cpus: 2, memoryMiB: 2048 });
    expect(wantedHardware(given({ hwp_id: 'custom', hwp_memory: '96' }))).toEqual({ memoryMiB: 96 });
    expect(wantedHardware(given({ hwp_cpu: '3', hwp_id: '' }))).toEqual({ cpus: 3 });
  });

  it('of anything are numbers in range, or refused', () => {
    const value = fc.oneof(fc.string(), fc.constant(null), fc.integer().map(String));
    fc.assert(
      fc.property(value, value, value, value, value, (capacity, device, hwp_id, hwp_cpu, hwp_memory) => {
        refusesCleanly(() => {
          const bytes = capacityBytes(given({ capacity }));
          if (bytes !== undefined) expect(Number.isSafeInteger(bytes) && bytes > 0).toBe(true);
        });
        refusesCleanly(() => deviceName(given({ device })));
        refusesCleanly(() => {
          const { cpus = 1, memoryMiB = 16 } = wantedHardware(given({ hwp_id, hwp_cpu, hwp_memory }));
          expect(cpus >= 1 && cpus <= 64 && memoryMiB >= 16).toBe(true);
        });
      }),
    );
  });
});
