/** The pages below /api/docs: every collection, operation and parameter, made from the reference. */
import { address, facts, html, link, type Page, table } from './html.ts';
import type { Links } from './present.ts';
import { type Collection, collections, type Operation } from './reference.ts';

type Body = Pick<Page, 'heading' | 'content'>;

export function docsPage(links: Links): Body {
  const rows = collections.map(({ name, title, description }) => [
    link(links.member('docs', name), title),
    address(`/api/${name}`),
    html`${description}`,
  ]);
  return { heading: 'Documentation', content: table('Collections', ['Collection', 'Address', 'Description'], rows) };
}

function pathOf(collection: Collection, operation: Operation): string {
  return `/api/${collection.name}${operation.path}`;
}

export function collectionDocs(collection: Collection, links: Links): Body {
  const { name, title, description, features, operations } = collection;
  const rows = operations.map((operation) => [
    link(`${links.member('docs', name)}/${operation.name}`, operation.name),
    html`${operation.method}`,
    address(pathOf(collection, operation)),
    html`${operation.description}`,
  ]);
  const featureRows = features.map((feature) => [
    html`${feature.name}`,
    html`${feature.operation}`,
    html`${feature.description}`,
  ]);
  const content = html`<p>${description}</p>
${table('Operations', ['Name', 'Method', 'Path', 'Description'], rows)}
${features.length === 0 ? null : html`<h2>Features</h2>${table('What not every driver can', ['Name', 'Operation', 'Description'], featureRows)}`}`;
  return { heading: title, content };
}

export function operationDocs(collection: Collection, operation: Operation): Body {
  const rows = operation.parameters.map(({ name, required, values, description }) => [
    html`${name}${required ? html` <abbr title="required">*</abbr>` : null}`,
    html`string`,
    html`${values.length === 0 ? 'any' : values.join(', ')}`,
    html`${description}`,
  ]);
  const content = html`<p>${operation.description}</p>
${facts([
  ['Method', operation.method],
  ['Path', address(pathOf(collection, operation))],
])}
<h2>Parameters</h2>
${table('An asterisk marks those that are required', ['Name', 'Type', 'Valid values', 'Description'], rows)}`;
  return { heading: `${collection.title}: ${operation.name}`, content };
}
