/**
 * The demo's guest as the server wants it: a kernel and an initrd in its boot directory. That is a directory of the
 * server's host, so that they can be put there only from the same host, by somebody who may write to it.
 */
import { access, rm } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { dirname, join } from 'node:path';
import { buildGuest, cachedGuest, type GuestFiles, guestFilesIn } from '../guest/build.ts';
import type { Context } from './context.ts';
import { CliError, errorText } from './errors.ts';
import { exitCodes } from './exit-codes.ts';

const folder = 'demo';
const { kernel, initrd } = guestFilesIn(folder);
/** As machines name them. */
export const demoKernel = { kernel, initrd } as const;

export class DemoGuest {
  readonly #ctx: Context;
  /** Null when the server does not tell us: we are no operator. */
  readonly #bootDirectory: string | null;
  #whyNot = '';

  constructor(ctx: Context, bootDirectory: string | null) {
    this.#ctx = ctx;
    this.#bootDirectory = bootDirectory;
  }

  /**
   * Puts the files where the server looks for them, if that can be done from here. Whether they are there is the
   * server's to say.
   * @throws CliError when they cannot be built
   */
  async place(): Promise<void> {
    const boot = this.#bootDirectory;
    if (boot === null || !(await this.#isHere(boot))) return;
    await this.#built();
    try {
      await buildGuest(join(boot, folder));
    } catch (error) {
      this.#whyNot = `You may not write to it: ${errorText(error)}.`;
    }
  }

  /** Takes the files away again, if that can be done from here. Their cache stays. */
  async remove(): Promise<void> {
    const boot = this.#bootDirectory;
    if (boot === null || !(await this.#isHere(boot))) return;
    await rm(join(boot, folder), { recursive: true, force: true }).catch((error: unknown) => {
      this.#ctx.note(`${join(boot, folder)} stays: ${errorText(error)}.`);
    });
  }

  /** For a server that did not find the files. */
  async missing(): Promise<CliError> {
    const boot = this.#bootDirectory;
    if (boot === null) {
      return notThere(
        "The demo's guest is not in the server's boot directory, and only an operator is told which that is.",
        'Ask an operator to run `calotype demo` once on the host of the server.',
      );
    }
    const to = join(boot, folder);
    const { kernel, initrd } = await this.#built();
    return notThere(
      `The server does not find the demo's guest in ${to}. ${this.#whyNot || 'It runs on another host than this command, or in a container.'}`,
      `Run this on the host of the server, as the user who runs it; or copy these two to ${to}/ there, and run this again: ${kernel} ${initrd}`,
    );
  }

  /** A server behind a tunnel has an address of this host, and a data directory that is not here. */
  async #isHere(boot: string): Promise<boolean> {
    if (!isOwnAddress(this.#ctx.client.connection.baseUrl.hostname)) return false;
    return access(dirname(boot)).then(
      () => true,
      () => false,
    );
  }

  async #built(): Promise<GuestFiles> {
    try {
      return await cachedGuest(() =>
        this.#ctx.note('Building the guest from Debian packages (35 MB, once; about a minute) …'),
      );
    } catch (error) {
      throw new CliError(exitCodes.failed, 'guest_not_built', errorText(error), { cause: error });
    }
  }
}

const notThere = (detail: string, remedy: string): CliError =>
  new CliError(exitCodes.notFound, 'boot_file_not_found', detail, { remedy });

function isOwnAddress(hostname: string): boolean {
  const host = hostname.replace(/^\[|\]$/g, '');
  if (host === 'localhost') return true;
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return own.some(({ address }) => address === host) || /^127\./.test(host);
}
