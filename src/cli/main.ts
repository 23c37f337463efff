/**
 * The CLI: parses, runs one command, reports its failure, returns the exit code. Knows only the native API. Called by
 * bin/calotype; `serve` never comes here.
 */
import { CommanderError } from 'commander';
import { CliError, describeError, errorAsJson, errorText, InterruptedError } from './errors.ts';
import { exitCodes } from './exit-codes.ts';
import type { Io } from './io.ts';
import { buildProgram } from './program.ts';

/** `argv` without node and script. */
export async function main(argv: string[]): Promise<number> {
  const controller = new AbortController();
  // Once each: a second Ctrl-C ends the process as it is.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => controller.abort(signal));
  // `calotype … | head`: the reader has seen enough.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(exitCodes.outputClosed);
  });
  const { stdin, stdout, stderr, env } = process;
  const code = await run(argv, { stdin, stdout, stderr, env, now: Date.now, interrupted: controller.signal });
  // An unread standard input would keep the process alive.
  if (code !== exitCodes.ok) stdin.destroy();
  return code;
}

export async function run(argv: readonly string[], io: Io): Promise<number> {
  const { program, ctx } = await buildProgram(io, argv);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return ctx.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return commanderExitCode(error);
    if (error instanceof InterruptedError) {
      io.stderr.write(error.note === undefined ? '\ninterrupted\n' : `\ninterrupted\n${error.note}\n`);
      return exitCodes.interrupted;
    }
    const failure = error instanceof CliError ? error : unexpected(error);
    io.stderr.write(
      argv.includes('--json') ? `${JSON.stringify(errorAsJson(failure), null, 2)}\n` : describeError(failure),
    );
    return failure.exitCode;
  } finally {
    ctx.close();
  }
}

/** commander has said what was wrong; help that was asked for is no failure. */
function commanderExitCode(error: CommanderError): number {
  const isAskedFor = error.code === 'commander.helpDisplayed' || error.code === 'commander.version';
  return isAskedFor || (error.code === 'commander.help' && error.exitCode === 0) ? exitCodes.ok : exitCodes.usage;
}

function unexpected(error: unknown): CliError {
  return new CliError(exitCodes.failed, 'unexpected', errorText(error), { cause: error });
}
