/**
 * Writes XML as the original did: attributes single-quoted and in alphabetical order, two blanks to a level, every document
 * ends with a line break. Unlike the original it escapes whatever it is given.
 */

export type Attributes = Readonly<Record<string, string>>;

export interface Element {
  readonly name: string;
  readonly attributes: Attributes;
  readonly content:
    | { readonly is: 'nothing' }
    | { readonly is: 'single' }
    | { readonly is: 'text' | 'cdata'; readonly text: string }
    | { readonly is: 'block'; readonly children: readonly Element[] };
}

const nothing = { is: 'nothing' } as const;
const single = { is: 'single' } as const;

/** `<name></name>` */
export function emptyElement(name: string, attributes: Attributes = {}): Element {
  return { name, attributes, content: nothing };
}

/** `<name />` */
export function singleElement(name: string, attributes: Attributes): Element {
  return { name, attributes, content: single };
}

/** `<name>text</name>` */
export function textElement(name: string, text: string, attributes: Attributes = {}): Element {
  return { name, attributes, content: { is: 'text', text } };
}

/** `<name><![CDATA[text]]></name>` */
export function cdataElement(name: string, text: string, attributes: Attributes = {}): Element {
  return { name, attributes, content: { is: 'cdata', text } };
}

/** Children on lines of their own; the end tag, too, also when there are none. */
export function block(name: string, attributes: Attributes, children: readonly (Element | null)[]): Element {
  return { name, attributes, content: { is: 'block', children: children.filter((child) => child !== null) } };
}

const declaration = "<?xml version='1.0' encoding='utf-8' ?>\n";

export function xmlDocument(root: Element): string {
  return declaration + write(root, '');
}

/** Without a declaration: the entry point and errors have none. */
export function bareXmlDocument(root: Element): string {
  return write(root, '');
}

function write({ name, attributes, content }: Element, indent: string): string {
  let start = `${indent}<${name}`;
  for (const key of Object.keys(attributes).sort()) start += ` ${key}='${escapeAttribute(attributes[key] ?? '')}'`;
  switch (content.is) {
    case 'nothing':
      return `${start}></${name}>\n`;
    case 'single':
      return `${start} />\n`;
    case 'text':
      return `${start}>${escapeText(content.text)}</${name}>\n`;
    case 'cdata':
      return `${start}><![CDATA[${allowed(content.text).replaceAll(']]>', ']]]]><![CDATA[>')}]]></${name}>\n`;
    case 'block': {
      let text = `${start}>\n`;
      for (const child of content.children) text += write(child, `${indent}  `);
      return `${text}${indent}</${name}>\n`;
    }
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what XML 1.0 does not allow
const forbidden = /[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g;
const plain = /^[\w ./:;,()@+-]*$/;

/** What XML 1.0 cannot hold at all, also escaped, is replaced. */
function allowed(text: string): string {
  return text.toWellFormed().replace(forbidden, '\ufffd');
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  "'": '&#39;',
  '\t': '&#9;',
  '\n': '&#10;',
  '\r': '&#13;',
};
const entityOf = (character: string): string => entities[character] ?? character;

function escapeText(text: string): string {
  return plain.test(text) ? text : allowed(text).replace(/[&<>\r]/g, entityOf);
}

function escapeAttribute(text: string): string {
  return plain.test(text) ? text : allowed(text).replace(/[&<>'\t\n\r]/g, entityOf);
}
