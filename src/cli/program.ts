/** The command tree, built with commander. Only nouns that the command line names get their verbs. */
import { Command } from 'commander';
import { Context } from './context.ts';
import { exitCodeMeanings } from './exit-codes.ts';
import type { Io } from './io.ts';
import { nouns } from './nouns.ts';
import { cliVersion } from './version.ts';

/** `words`: the command line; null for all nouns. */
export async function buildProgram(
  io: Io,
  words: readonly string[] | null,
): Promise<{ program: Command; ctx: Context }> {
  const program = new Command('calotype')
    .description('Point-in-time snapshots of machines and volumes on your own hardware.')
    .usage('[options] <noun> <verb> …')
    .version(cliVersion(), '-V, --version', 'print the version of this program')
    .helpOption('-h, --help', 'print help')
    .helpCommand('help [noun] [verb]', 'print help')
    .option('--url <url>', 'address of the server (CALOTYPE_URL)')
    .option('--token <token>', 'API token (CALOTYPE_TOKEN)')
    .option('--data <dir>', 'data directory of a server on this machine (CALOTYPE_DATA; default ./data)')
    .option('--project <project>', 'work in this project (CALOTYPE_PROJECT; default: your first)')
    .option('--cacert <file>', 'trust the certificates in this file (CALOTYPE_CACERT)')
    .option('--json', 'print JSON as the API sent it')
    .option('--bytes', 'print sizes in bytes')
    .option('-q, --quiet', 'no progress and no remarks')
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      getOutHelpWidth: () => io.stdout.columns ?? 80,
      getErrHelpWidth: () => io.stderr.columns ?? 80,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .addHelpText(
      'after',
      () =>
        `\nExit codes:\n${exitCodeMeanings.map(([code, meaning]) => `  ${String(code).padEnd(4)} ${meaning}`).join('\n')}`,
    );

  const ctx = new Context(io, program);
  // Carried out by bin/calotype; here for the list and completion only, with the options most used.
  subcommand(program, 'serve', 'start the server')
    .option('--port-base <n>', 'the first of its ports (default 7400)')
    .option('--host <address>', 'listen on this address (default: loopback)')
    .option('--config <file>', 'configuration file')
    .option('--tls-cert <file>', 'certificate chain (PEM)')
    .option('--tls-key <file>', 'its private key (PEM)')
    .option('--import-directory <dir>', 'images in it may be imported by name')
    .option('--boot-directory <dir>', 'kernels in it may be named by machines')
    .action(() => {
      program.error('error: `serve` is started by bin/calotype.');
    });
  for (const noun of nouns) {
    const command = subcommand(program, noun.name, noun.description);
    if (words === null || words.includes(noun.name)) (await noun.load()).register(command, ctx);
    if (command.commands.length > 0) command.configureHelp({ showGlobalOptions: false });
  }
  return { program, ctx };
}

/** commander copies settings to subcommands only as they are at that time; this holds for ours. */
function subcommand(program: Command, name: string, description: string): Command {
  return program.command(name).description(description).helpCommand(false);
}
