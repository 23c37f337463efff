/** Writing, without a server: XML that any parser reads, errors that every code has, figures and dates. */

import fc from 'fast-check';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { describe, expect, it } from 'vitest';
import { CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';
import { answerOf, exceptionNames, standardTexts, statusOf } from './errors.ts';
import { html } from './html.ts';
import { GiB } from './parse.ts';
import { dateOf, gigabytes, usualDevice } from './present.ts';
import { collections } from './reference.ts';
import { bareXmlDocument, block, cdataElement, emptyElement, singleElement, textElement, xmlDocument } from './xml.ts';

describe('XML', () => {
  it('is written in the way of the original', () => {
    const root = block('a', { z: '1', b: "it's" }, [
      textElement('t', 'x < y'),
      emptyElement('e', { n: '' }),
      singleElement('s', { v: 'w' }),
      null,
      block('k', {}, []),
    ]);
    expect(xmlDocument(root)).toBe(`<?xml version='1.0' encoding='utf-8' ?>
<a b='it&#39;s' z='1'>
  <t>x &lt; y</t>
  <e n=''></e>
  <s v='w' />
  <k>
  </k>
</a>
`);
    expect(bareXmlDocument(cdataElement('c', 'a]]>b'))).toBe('<c><![CDATA[a]]]]><![CDATA[>b]]></c>\n');
  });

  it('holds any text, and can be read back', () => {
    const parser = new XMLParser({
      ignoreAttributes: false,
      attributeNamePrefix: '',
      parseTagValue: false,
      parseAttributeValue: false,
      trimValues: false,
    });
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const written = bareXmlDocument(block('r', {}, [textElement('t', text, { a: text }), cdataElement('c', text)]));
        expect(XMLValidator.validate(written)).toBe(true);
        // biome-ignore lint/suspicious/noControlCharactersInRegex: what XML cannot hold
        expect(written).not.toMatch(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/);
        expect(written.isWellFormed()).toBe(true);
        expect(() => parser.parse(written)).not.toThrow();
      }),
    );
  });
});

describe('HTML', () => {
  it('escapes what is put into it, once', () => {
    const inner = html`<b>${'<&"\'>'}</b>`;
    expect(html`<a title="${'"'}">${inner}${[inner, inner]}${null}${3}</a>`.text).toBe(
      `<a title="&quot;">${'<b>&lt;&amp;&quot;&#39;&gt;</b>'.repeat(3)}3</a>`,
    );
  });
});

describe('errors', () => {
  const codes = Object.keys(errorCatalogue) as ErrorCode[];

  it('have one of the statuses that clients know, for every code', () => {
    for (const code of codes) {
      const status = statusOf(code);
      expect(standardTexts[status], code).toBeDefined();
      expect(exceptionNames[status], code).toBeDefined();
      const known = errorCatalogue[code].status;
      if (known === 409) expect([405, 409]).toContain(status);
      else if (known < 500) expect(status, code).toBeLessThan(500);
      else expect(status, code).toBeGreaterThanOrEqual(500);
    }
    expect([
      statusOf('name_taken'),
      statusOf('too_many_logins'),
      statusOf('body_too_large'),
      statusOf('space_low'),
    ]).toEqual([409, 401, 400, 502]);
    expect([
      statusOf('machine_off'),
      statusOf('not_supported'),
      statusOf('internal'),
      statusOf('engine_failed'),
    ]).toEqual([405, 501, 500, 502]);
  });

  it('tell nothing of the inside', () => {
    const secret = '/srv/data/secret.qcow2 0f8fad5b-d9cb-469f-a165-70867728950e';
    for (const code of codes) {
      const { message, status } = answerOf(new CalotypeError(code, secret));
      expect(message, code).not.toContain('0f8fad5b');
      if (status >= 500) expect(message, code).not.toContain('secret');
      expect(message).not.toBe('');
    }
  });
});

describe('figures and dates', () => {
  it('are what clients expect', () => {
    expect([gigabytes(GiB), gigabytes(10 * GiB), gigabytes(GiB / 64), gigabytes(512), gigabytes(100 * GiB)]).toEqual([
      '1',
      '10',
      '0.015625',
      '0.000000477',
      '100',
    ]);
    expect(dateOf(1_709_633_472_123_456)).toBe('2024-03-05T10:11:12Z');
    expect([usualDevice(0), usualDevice(14)]).toEqual(['/dev/vda', '/dev/vdo']);
  });
});

describe('the reference', () => {
  it('is in the order of names, and every feature is of an operation with its parameters', () => {
    const names = collections.map(({ name }) => name);
    expect(names).toEqual([...names].sort());
    for (const { features, operations } of collections) {
      for (const feature of features) {
        const operation = operations.find(({ name }) => name === feature.operation);
        const known = operation?.parameters.map(({ name }) => name);
        for (const parameter of feature.parameters) expect(known).toContain(parameter);
      }
    }
  });
});
