/**
 * Which of the three formats an answer has: by the query parameter `format`, else by `Accept`. `*` + `/*` asks for HTML here,
 * and of equal wishes the last one counts: both are the original's ways, and clients are made for them.
 */

export const formats = ['xml', 'json', 'html'] as const;
export type Format = (typeof formats)[number];

export const contentTypes: Readonly<Record<Format, string>> = {
  xml: 'application/xml',
  json: 'application/json',
  html: 'text/html',
};

const byMediaType: ReadonlyMap<string, Format> = new Map([
  ['application/xml', 'xml'],
  ['text/xml', 'xml'],
  ['application/json', 'json'],
  ['application/xhtml+xml', 'html'],
  ['text/html', 'html'],
  ['*/*', 'html'],
]);

/**
 * @param wanted the parameter `format`; null without a value counts like none
 * @returns null when nothing fits
 */
export function negotiate(wanted: string | null | undefined, accept: string | undefined): Format | null {
  if (typeof wanted === 'string') return formats.find((format) => format === wanted) ?? null;
  if (accept === undefined || accept.trim() === '') return 'xml';
  const only = byMediaType.get(accept);
  if (only !== undefined) return only;
  let best: Format | null = null;
  let bestQuality = 0;
  for (const entry of accept.split(',')) {
    const [type = '', ...parameters] = entry.split(';');
    const format = byMediaType.get(type.trim().toLowerCase());
    if (format === undefined) continue;
    const quality = qualityOf(parameters);
    if (quality === 0 || quality < bestQuality) continue;
    best = format;
    bestQuality = quality;
  }
  return best;
}

/** 1 when there is none that can be read. */
function qualityOf(parameters: readonly string[]): number {
  for (const parameter of parameters) {
    const value = /^\s*q\s*=\s*(\d(?:\.\d{0,9})?)\s*$/i.exec(parameter)?.[1];
    if (value !== undefined) return Math.min(1, Number(value));
  }
  return 1;
}
