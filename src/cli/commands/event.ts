/** `calotype event …`: who did what to which object when. */
import type { Command } from 'commander';
import type { CatalogEvent, Page } from '../api-types.ts';
import type { Context } from '../context.ts';
import { followEvents } from '../events.ts';
import { harmless, paint } from '../io.ts';
import { parseInteger } from '../sizes.ts';
import type { Column } from '../table.ts';
import { addListOptions, type ListOptions } from './common.ts';

const parseSeq = (text: string): number => parseInteger(text, 'event number', 0);

export function register(noun: Command, ctx: Context): void {
  addListOptions(noun.command('list').description('list events, oldest first'))
    .option('--after <seq>', 'those after this one', parseSeq)
    .option('--object <id>', 'of the object with this id')
    .action(async (options: ListOptions & { after?: number; object?: string }) => {
      await ctx.printList(pages(ctx, options.object, options.after ?? 0, options.limit), columns, 'No events.');
    });

  noun
    .command('follow')
    .description('print events as they happen, until Ctrl-C; with --json one per line')
    .option('--after <seq>', 'begin with those after this one (default: new ones only)', parseSeq)
    .option('--object <id>', 'of the object with this id')
    .action(async (options: { after?: number; object?: string }) => {
      for await (const event of followEvents(ctx.client, options, ctx.io.interrupted)) {
        await ctx.print(ctx.json ? `${JSON.stringify(event)}\n` : `${describeEvent(ctx, event)}\n`);
      }
    });
}

/** By sequence number: the list of events goes on where the last page ended. */
async function* pages(
  ctx: Context,
  objectId: string | undefined,
  after: number,
  limit: number,
): AsyncGenerator<readonly CatalogEvent[]> {
  let left = limit;
  let last = after;
  while (left > 0) {
    const asked = Math.min(left, 1000);
    const { items } = await ctx.client.get<Page<CatalogEvent>>('/events', { after: last, limit: asked, objectId });
    yield items.slice(0, left);
    left -= items.length;
    const next = items.at(-1)?.seq;
    if (next === undefined || next <= last || items.length < asked) return;
    last = next;
  }
}

const detailOf = (event: CatalogEvent): string =>
  Object.entries(event.detail)
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ');

const columns: readonly Column<CatalogEvent>[] = [
  { title: 'SEQ', align: 'right', value: (event) => String(event.seq) },
  { title: 'TIME', value: (event) => event.at },
  { title: 'EVENT', value: (event) => event.kind },
  { title: 'OBJECT', value: (event) => `${event.objectKind} ${event.objectId.slice(0, 8)}` },
  { title: 'VIA', value: (event) => event.via },
  { title: 'DETAIL', value: detailOf, flexible: true },
];

function describeEvent(ctx: Context, event: CatalogEvent): string {
  const head = paint(ctx.io, 'dim', `${event.at}  #${event.seq}`);
  return `${head}  ${paint(ctx.io, 'bold', harmless(event.kind))}  ${harmless(`${event.objectKind} ${event.objectId}  via ${event.via}  ${detailOf(event)}`)}`.trimEnd();
}
