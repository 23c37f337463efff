/** Names for clones that were given none, by the wish in the user's profile. [cloudsigma-docs clone_naming.rst] */

export const cloneNamings = ['NONE', 'COUNTER', 'DATE', 'TIMESTAMP'] as const;
export type CloneNaming = (typeof cloneNamings)[number];

/** An ending that an earlier clone got: a date or a time of day with it, a counter, or both. */
const ending = /^(?<base>.*?)(?:-(?<stamp>\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d)?))?(?:_(?<counter>\d{1,9}))?$/su;

/**
 * `taken` are names in use, for the counter; `iso` is the present time, `2031-04-09T16:20:05.004210Z`. A date or counter that
 * is old is replaced; a date that is the present one is kept, with a counter behind it.
 */
export function cloneName(source: string, naming: CloneNaming, iso: string, taken: readonly string[]): string {
  if (naming === 'NONE') return source;
  const { base = source, stamp } = ending.exec(source)?.groups ?? {};
  const start = base === '' ? source : base;
  if (naming === 'COUNTER') return counted(start, source, taken);
  const now = naming === 'DATE' ? iso.slice(0, 10) : `${iso.slice(0, 10)} ${iso.slice(11, 19)}`;
  const dated = `${start}-${now}`;
  return stamp === now ? counted(dated, source, taken) : dated;
}

/** What names that a counter is compared with begin with. */
export function countedNames(source: string): string {
  const { base = source } = ending.exec(source)?.groups ?? {};
  return base === '' ? source : base;
}

function counted(start: string, source: string, taken: readonly string[]): string {
  let highest = 0;
  for (const name of [source, ...taken]) {
    const count = name.startsWith(`${start}_`) ? name.slice(start.length + 1) : '';
    if (/^\d{1,9}$/.test(count)) highest = Math.max(highest, Number(count));
  }
  return `${start}_${highest + 1}`;
}
