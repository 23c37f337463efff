/** `calotype completion …`: shell scripts made from the command tree; names of objects come from the API as they are needed. */
import type { Command } from 'commander';
import { bashScript, describeTree, fishScript, zshScript } from '../completion.ts';
import type { Context } from '../context.ts';
import { InterruptedError } from '../errors.ts';
import { buildProgram } from '../program.ts';

const shells = {
  bash: { script: bashScript, hint: 'source <(calotype completion bash)' },
  zsh: { script: zshScript, hint: 'source <(calotype completion zsh)' },
  fish: { script: fishScript, hint: 'calotype completion fish | source' },
} as const;

export function register(noun: Command, ctx: Context): void {
  for (const [shell, { script, hint }] of Object.entries(shells)) {
    noun
      .command(shell)
      .description(`print the script for ${shell}: ${hint}`)
      .action(async () => {
        const { program } = await buildProgram(ctx.io, null);
        await ctx.print(script(describeTree(program)));
      });
  }

  noun
    .command('names', { hidden: true })
    .description('names of objects of a kind, one per line; says nothing when there is no server')
    .argument('<kind>')
    .action(async (kind: string) => {
      const names = await namesOf(ctx, kind);
      if (names.length > 0) await ctx.print(`${names.join('\n')}\n`);
    });
}

const paths: Readonly<Record<string, { readonly path: string; readonly isPaged: boolean }>> = {
  machine: { path: '/machines', isPaged: true },
  drive: { path: '/drives', isPaged: true },
  snapshot: { path: '/snapshots', isPaged: true },
  image: { path: '/images', isPaged: true },
  task: { path: '/tasks', isPaged: true },
  export: { path: '/exports', isPaged: false },
  project: { path: '/projects', isPaged: true },
  user: { path: '/users', isPaged: true },
  token: { path: '/tokens', isPaged: true },
  grant: { path: '/grants', isPaged: true },
};

const limit = 500;
const patienceMs = 1500;

/** Whatever fails here, the shell shows no error in the middle of a line. */
async function namesOf(ctx: Context, kind: string): Promise<readonly string[]> {
  const source = paths[kind];
  if (source === undefined) return [];
  try {
    const answer = await ctx.client.get<{ items: readonly { readonly id: string; readonly name?: string }[] }>(
      source.path,
      source.isPaged ? { limit } : {},
      undefined,
      AbortSignal.timeout(patienceMs),
    );
    return answer.items.map((item) => item.name ?? item.id);
  } catch (error) {
    if (error instanceof InterruptedError) throw error;
    return [];
  }
}
