/** `calotype machine start`, `stop`, `pause`, `resume`, `reset`. */
import type { Command } from 'commander';
import type { Context } from '../context.ts';
import { resolveMachine } from '../resolve.ts';
import { parseInteger } from '../sizes.ts';
import type { ChangeOptions } from '../wait.ts';
import { addIdempotencyOption, addWaitOption, type CreateOptions, change, choice } from './common.ts';

/** A verb on one machine. */
export function onMachine(noun: Command, verb: string, description: string): Command {
  return noun.command(verb).description(description).argument('<machine>', 'name, id or beginning of an id');
}

interface StopOptions {
  readonly mode?: string;
  readonly timeout?: number;
}

export function registerPower(noun: Command, ctx: Context): void {
  async function run(
    text: string,
    verb: string,
    body: Readonly<Record<string, unknown>>,
    options: CreateOptions & ChangeOptions,
    outcome: string | ((power: unknown) => string),
  ): Promise<void> {
    const { id, name } = await resolveMachine(ctx, text);
    const path = `/machines/${id}/${verb}`;
    await change(
      ctx,
      'POST',
      path,
      { body, create: options, wait: options },
      ({ task }) => `Machine ${name} ${typeof outcome === 'string' ? outcome : outcome(task.result?.power)}.`,
    );
  }
  const verb = (name: string, description: string): Command =>
    addWaitOption(addIdempotencyOption(onMachine(noun, name, description)));

  verb('start', 'start a machine')
    .option('--paused', 'do not let the guest run yet')
    .action((text: string, options: CreateOptions & ChangeOptions & { paused?: boolean }) =>
      options.paused === true
        ? run(text, 'start', { paused: true }, options, (power) =>
            power === 'running' ? 'runs already' : 'is started; its guest stands still',
          )
        : run(text, 'start', {}, options, 'runs'),
    );

  verb('stop', 'stop a machine')
    .addOption(
      choice('--mode <mode>', 'guest: asked; power: plug pulled; graceful: asked, then pulled (default)', [
        'graceful',
        'guest',
        'power',
      ]),
    )
    .option('--timeout <seconds>', 'how long the guest may take (default: 60)', (text) =>
      parseInteger(text, 'number of seconds', 1),
    )
    .action((text: string, options: CreateOptions & ChangeOptions & StopOptions) => {
      const { mode, timeout } = options;
      const body = {
        ...(mode === undefined ? {} : { mode }),
        ...(timeout === undefined ? {} : { timeoutSeconds: timeout }),
      };
      return run(text, 'stop', body, options, 'is off');
    });

  const others = [
    ['pause', 'let the guest stand still', 'stands still'],
    ['resume', 'let a paused guest go on', 'runs'],
    ['reset', 'start the guest afresh, as the reset button does', 'was reset'],
  ] as const;
  for (const [name, description, outcome] of others) {
    verb(name, description).action((text: string, options: CreateOptions & ChangeOptions) =>
      run(text, name, {}, options, outcome),
    );
  }
}
