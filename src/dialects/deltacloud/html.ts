/**
 * HTML that is safe by construction: whatever is put into the template is escaped unless it is HTML already. One small style
 * sheet inside, no scripts, nothing from elsewhere; the content security policy allows exactly that.
 */
import { createHash } from 'node:crypto';
import type { Links } from './present.ts';
import { deltacloudVersion } from './present.ts';
import { collections } from './reference.ts';

export class Html {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Part = Html | string | number | null | readonly Html[];

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

const entityOf = (character: string): string => entities[character] ?? character;

function escapeHtml(text: string): string {
  return text.toWellFormed().replace(/[&<>"']/g, entityOf);
}

/** For texts that are to be read as they are, by programs too, and that browsers take for HTML. */
export function escapeMarkup(text: string): string {
  return text.toWellFormed().replace(/[&<>]/g, entityOf);
}

function render(part: Part): string {
  if (part === null) return '';
  if (part instanceof Html) return part.text;
  if (typeof part === 'string' || typeof part === 'number') return escapeHtml(String(part));
  return part.map((each) => each.text).join('');
}

export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.reduce((text, next, i) => text + render(parts[i - 1] ?? null) + next));
}

const style = `
:root { color-scheme: light dark; --line: #8886; --muted: #444; --accent: #0a5a8a; --danger: #a01818; }
@media (prefers-color-scheme: dark) { :root { --muted: #bbb; --accent: #7cc4f0; --danger: #ff9a9a; } }
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
header, main, footer { max-width: 64rem; margin: 0 auto; padding: 0.75rem 1rem; }
header { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; align-items: baseline; border-bottom: 1px solid var(--line); }
footer { border-top: 1px solid var(--line); font-size: 0.9rem; margin-top: 2rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; list-style: none; margin: 0; padding: 0; }
a { color: var(--accent); }
a[aria-current] { font-weight: 600; color: inherit; }
.brand { font-weight: 700; text-decoration: none; color: inherit; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 0.5rem; padding: 0.25rem 0.75rem; background: Canvas; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding-bottom: 0.5rem; color: var(--muted); }
th, td { text-align: left; vertical-align: top; padding: 0.4rem clamp(0.6rem, 2vw, 1rem) 0.4rem 0; border-bottom: 1px solid var(--line); }
dd { overflow-wrap: anywhere; }
.free { display: inline-block; min-width: 4.5rem; overflow-wrap: anywhere; }
time span { white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.35rem 1.5rem; }
dt { color: var(--muted); }
dd { margin: 0; }
form.fields { display: grid; gap: 1rem; max-width: 32rem; }
label { display: grid; gap: 0.25rem; }
.hint { font-size: 0.9rem; color: var(--muted); }
.actions { display: flex; flex-wrap: wrap; gap: 0.75rem; margin-top: 1.5rem; align-items: center; }
.actions form { margin: 0; }
button, .button { font: inherit; padding: 0.4rem 1rem; border: 1px solid var(--accent); border-radius: 0.3rem;
  background: var(--accent); color: Canvas; text-decoration: none; cursor: pointer; }
button.danger { background: transparent; color: var(--danger); border-color: currentColor; }
input, select { font: inherit; padding: 0.4rem 0.5rem; border: 1px solid #888; border-radius: 0.3rem; width: 100%; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
code { font-family: ui-monospace, monospace; }
`;

const styleHash = createHash('sha256').update(style).digest('base64');

/** Besides the style sheet nothing is loaded, and forms go nowhere else. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  `style-src 'sha256-${styleHash}'`,
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ');

export interface Page {
  readonly heading: string;
  readonly content: Html;
  /** The collection that it belongs to. */
  readonly collection?: string;
  /** What the links to XML and JSON in the footer lead to: the same thing in another format. */
  readonly self: string;
}

function withFormat(address: string, format: string): string {
  const mark = address.indexOf('?');
  const kept =
    mark === -1
      ? []
      : address
          .slice(mark + 1)
          .split('&')
          .filter((pair) => pair !== '' && !/^format(=|$)/.test(pair));
  return `${mark === -1 ? address : address.slice(0, mark)}?${[...kept, `format=${format}`].join('&')}`;
}

export function wholePage(page: Page, links: Links): string {
  const current = (name: string): Html | null => (name === page.collection ? html` aria-current="true"` : null);
  const menu = collections.map(
    ({ name, title }) => html`<li><a href="${links.collection(name)}"${current(name)}>${title}</a></li>`,
  );
  return `<!DOCTYPE html>\n${
    html`<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Deltacloud API ${deltacloudVersion}</title>
<style>${new Html(style)}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<header>
<a class="brand" href="${links.base}">Deltacloud API</a>
<nav aria-label="Collections"><ul>${menu}</ul></nav>
</header>
<main id="content">
<h1>${page.heading}</h1>
${page.content}
</main>
<footer>
<nav aria-label="This page"><ul>
<li><a href="${links.base}">Home</a></li>
<li><a href="${links.collection('docs')}">Documentation</a></li>
<li><a href="${withFormat(page.self, 'xml')}">XML</a></li>
<li><a href="${withFormat(page.self, 'json')}">JSON</a></li>
</ul></nav>
</footer>
</body>
</html>
`.text
  }`;
}

export function table(caption: string, heads: readonly string[], rows: readonly (readonly Html[])[]): Html {
  if (rows.length === 0) return html`<p>There are none.</p>`;
  const body = rows.map(([first = html``, ...rest]) => {
    const cells = rest.map((cell) => html`<td>${cell}</td>`);
    return html`<tr><th scope="row">${first}</th>${cells}</tr>\n`;
  });
  return html`<div class="scroll" role="region" aria-label="${caption}" tabindex="0"><table>
<caption>${caption}</caption>
<thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
<tbody>
${body}</tbody>
</table></div>`;
}

/** Words of people in a table: they may be of any length, and break anywhere; words of ours do not. */
export function freeText(text: string): Html {
  return html`<span class="free">${text}</span>`;
}

/** An address in a text: on a narrow window it breaks behind a slash or an underscore. */
export function address(path: string): Html {
  return html`<code>${path.split(/(?<=[/_])(?=.)/).map((part, i) => (i === 0 ? html`${part}` : html`<wbr>${part}`))}</code>`;
}

export function facts(pairs: readonly (readonly [term: string, value: Html | string])[]): Html {
  return html`<dl>${pairs.map(([term, value]) => html`<dt>${term}</dt><dd>${value === '' ? '–' : value}</dd>\n`)}</dl>`;
}

export function link(href: string, text: string): Html {
  return html`<a href="${href}">${text}</a>`;
}

/** One button that changes something: a form without scripts can only post, so other methods go along as a field. */
export function buttonForm(action: string, label: string, method: 'post' | 'delete' = 'post'): Html {
  return html`<form method="post" action="${action}">${
    method === 'delete' ? html`<input type="hidden" name="_method" value="delete">` : null
  }<button type="submit"${method === 'delete' ? html` class="danger"` : null}>${label}</button></form>`;
}

export interface Field {
  readonly name: string;
  readonly label: string;
  readonly hint?: string;
  readonly value?: string;
  readonly required?: boolean;
  /** A choice of these instead of any text. */
  readonly choices?: readonly { readonly value: string; readonly label: string }[];
}

export function fieldForm(action: string, fields: readonly Field[], button: string): Html {
  return html`<form class="fields" method="post" action="${action}" autocomplete="off">
${fields.map(fieldOf)}<div><button type="submit">${button}</button></div>
</form>`;
}

function fieldOf({ name, label, hint, value = '', required = false, choices }: Field): Html {
  const needed = required ? html` required` : null;
  const described = hint === undefined ? null : html` aria-describedby="${name}-hint"`;
  const input =
    choices === undefined
      ? html`<input id="${name}" name="${name}" value="${value}"${needed}${described}>`
      : html`<select id="${name}" name="${name}"${needed}${described}>${choices.map(
          (choice) =>
            html`<option value="${choice.value}"${choice.value === value ? html` selected` : null}>${choice.label}</option>`,
        )}</select>`;
  const note = hint === undefined ? null : html`<span class="hint" id="${name}-hint">${hint}</span>`;
  return html`<div><label for="${name}">${label}${required ? ' (required)' : null}</label>${input}${note}</div>\n`;
}
