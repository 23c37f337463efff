/** `calotype grant …`: access of one user to one machine, drive, snapshot or image. */
import type { Command } from 'commander';
import { Argument } from 'commander';
import type { Grant } from '../api-types.ts';
import type { Context } from '../context.ts';
import { usageError } from '../errors.ts';
import { resolveDrive, resolveGrant, resolveImage, resolveMachine, resolveSnapshot, resolveUser } from '../resolve.ts';
import type { Column } from '../table.ts';
import {
  addIdempotencyOption,
  addListOptions,
  ageColumn,
  type CreateOptions,
  idColumn,
  type ListOptions,
  remove,
} from './common.ts';

interface SubjectOptions {
  readonly machine?: string;
  readonly drive?: string;
  readonly snapshot?: string;
  readonly image?: string;
}

export function register(noun: Command, ctx: Context): void {
  addIdempotencyOption(noun.command('create').description('grant a user access to one object').argument('<user>'))
    .addArgument(accessArgument())
    .option('--machine <machine>', 'to this machine and its snapshots')
    .option('--drive <drive>', 'to this drive')
    .option('--snapshot <snapshot>', 'to this snapshot')
    .option('--image <image>', 'to this image')
    .action(async (userText: string, access: string, options: CreateOptions & SubjectOptions) => {
      const { machine, drive, snapshot, image } = options;
      if ([machine, drive, snapshot, image].filter((each) => each !== undefined).length !== 1)
        throw usageError('Name one object: a --machine, a --drive, a --snapshot or an --image.');
      const user = await resolveUser(ctx, userText);
      const subject = {
        ...(machine === undefined ? {} : { machineId: (await resolveMachine(ctx, machine)).id }),
        ...(drive === undefined ? {} : { driveId: (await resolveDrive(ctx, drive)).id }),
        ...(snapshot === undefined ? {} : { snapshotId: (await resolveSnapshot(ctx, snapshot)).id }),
        ...(image === undefined ? {} : { imageId: (await resolveImage(ctx, image)).id }),
      };
      const body = { user: user.id, ...subject, access };
      const { body: grant } = await ctx.client.request<Grant>('POST', '/grants', {
        body,
        idempotencyKey: options.idempotencyKey,
        once: true,
      });
      if (ctx.json) await ctx.printJson(grant);
      else
        await ctx.print(
          `Granted ${user.name} ${access} on ${grant.objectKind} ${grant.objectId} (grant ${grant.id}).\n`,
        );
    });

  addListOptions(noun.command('list').description('list grants'))
    .option('--user <user>', 'of this user')
    .option('--object <id>', 'on the object with this id')
    .action(async (options: ListOptions & { user?: string; object?: string }) => {
      const query = { user: options.user, objectId: options.object };
      await ctx.printList(ctx.client.pages<Grant>('/grants', query, options.limit), columnsOf(ctx), 'No grants.');
    });

  noun
    .command('show')
    .description('show one grant')
    .argument('<grant>', 'id or beginning of an id')
    .action(async (text: string) => show(ctx, await resolveGrant(ctx, text)));

  noun
    .command('set')
    .description('change the access of a grant')
    .argument('<grant>', 'id or beginning of an id')
    .addArgument(accessArgument())
    .action(async (text: string, access: string) => {
      const { id } = await resolveGrant(ctx, text);
      await show(ctx, (await ctx.client.request<Grant>('PATCH', `/grants/${id}`, { body: { access } })).body);
    });

  noun
    .command('delete')
    .description('take a grant back')
    .argument('<grant>', 'id or beginning of an id')
    .action(async (text: string) => {
      const grant = await resolveGrant(ctx, text);
      await remove(ctx, `/grants/${grant.id}`, `Deleted grant ${grant.id}.`);
    });
}

const accessArgument = () => new Argument('<access>', 'ro or rw').choices(['ro', 'rw']);

async function show(ctx: Context, grant: Grant): Promise<void> {
  if (ctx.json) return ctx.printJson(grant);
  await ctx.printFields([
    ['id', grant.id],
    ['user', grant.userId],
    ['access', grant.access],
    ['object', `${grant.objectKind} ${grant.objectId}`],
    ['created', grant.createdAt],
  ]);
}

function columnsOf(ctx: Context): readonly Column<Grant>[] {
  return [
    idColumn,
    { title: 'USER', value: (grant) => grant.userId },
    { title: 'ACCESS', value: (grant) => grant.access },
    { title: 'OBJECT', value: (grant) => `${grant.objectKind} ${grant.objectId}` },
    ageColumn(ctx),
  ];
}
