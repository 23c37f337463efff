/** `calotype tls …`: certificates for trying out. Touches only the directory it is told. */
import { mkdir, open, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { errorCodeOf } from '../client.ts';
import type { Context } from '../context.ts';
import { CliError, usageError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { parseInteger } from '../sizes.ts';
import { collect } from './common.ts';

interface SelfSignedOptions {
  readonly out: string;
  readonly host?: readonly string[];
  readonly days: number;
  readonly force?: boolean;
}

export function register(noun: Command, ctx: Context): void {
  noun
    .command('self-signed')
    .description('make a key and a certificate for trying out')
    .requiredOption('--out <dir>', 'write cert.pem and key.pem there')
    .option(
      '--host <name>',
      'a name or address of the server, may be repeated (default: this machine and localhost)',
      collect,
    )
    .option('--days <n>', 'valid for so long', (text) => parseInteger(text, 'number of days', 1), 365)
    .option('--force', 'replace existing files')
    .action(async (options: SelfSignedOptions) => {
      // Loaded only here: it is large.
      const { makeSelfSigned } = await import('../self-signed.ts');
      const hosts = options.host ?? [...new Set([hostname(), 'localhost', '127.0.0.1', '::1'])];
      if (hosts.includes('')) throw usageError('A host name is empty.');
      const { certificatePem, keyPem, fingerprint } = await makeSelfSigned(hosts, options.days, ctx.io.now());
      await mkdir(options.out, { recursive: true });
      const certificate = join(options.out, 'cert.pem');
      const key = join(options.out, 'key.pem');
      await writeNew(key, keyPem, 0o600, options.force === true);
      await writeNew(certificate, certificatePem, 0o644, options.force === true);
      if (ctx.json) return ctx.printJson({ certificate, key, hosts, fingerprint });
      await ctx.printFields([
        ['certificate', certificate],
        ['key', key],
        ['hosts', hosts.join(', ')],
        ['SHA-256', fingerprint],
      ]);
      ctx.note(`Serve with it: calotype serve --tls-cert ${certificate} --tls-key ${key}`);
      ctx.note(`Clients trust it with: calotype --cacert ${certificate} …, or CALOTYPE_CACERT=${certificate}`);
    });
}

async function writeNew(file: string, text: string, mode: number, force: boolean): Promise<void> {
  if (force) await rm(file, { force: true });
  try {
    await using handle = await open(file, 'wx', mode);
    await handle.writeFile(text);
    await handle.sync();
  } catch (error) {
    if (errorCodeOf(error) !== 'EEXIST') throw error;
    throw new CliError(exitCodes.conflict, 'file_exists', `${file} exists.`, { remedy: 'Give --force to replace it.' });
  }
}
