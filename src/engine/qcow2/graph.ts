/**
 * What a QEMU process has open: block nodes, exports, jobs. It mirrors the process's graph so that hot commands
 * need no query, and keeps a node as long as a *root* (an export, a drive's top, a reader, a job) stands on it.
 * Touches QEMU only; the catalog is the caller's affair.
 */
import { CalotypeError } from '../../core/errors.ts';
import { Mutex } from '../../core/mutex.ts';
import { type QmpClient, type QmpCommand, QmpError, type QmpEvent } from '../../qemu/qmp.ts';
import type { StorageDaemon } from '../../qemu/storage-daemon.ts';
import type { WorkControl } from '../engine.ts';
import type { FileStore } from './file-store.ts';

/** A layer to be opened, as far as the graph cares. */
export interface ChainLink {
  id: number;
  backing_id: number | null;
}

interface Node {
  backing: number | null;
  readOnly: boolean;
}

export interface BlockNodeInfo {
  'node-name': string;
  ro: boolean;
  drv?: string;
  file?: string;
}

export interface JobInfo {
  id: string;
  type: string;
  status: string;
  'current-progress': number;
  'total-progress': number;
  error?: string;
}

/** Metadata cache of a read-only layer: enough for 8 GiB of guest space; a chain has many. */
const layerCacheBytes = 1024 * 1024;
const jobPollMs = 250;

export interface GraphOptions {
  /** Whether files are opened past the page cache. */
  readonly direct: boolean;
  /** Begins the names of our nodes, in a process that has others. Default: nothing. */
  readonly prefix?: string;
}

export class Graph {
  readonly store: FileStore;
  readonly qmp: QmpClient;
  readonly #direct: boolean;
  readonly #prefix: string;
  readonly #nodes = new Map<number, Node>();
  readonly #roots = new Map<string, number>();
  readonly #lock = new Mutex();
  /** Changes of shape: a command that says what a node is must not cross another that changes it. */
  readonly #shape = new Mutex();
  readonly #closedWork = new Map<number, { evict: AbortController; ended: Promise<void> }>();
  /**
   * Layers being merged down, and the job's filter node above each: QEMU lets nobody new read such a layer itself. Whoever
   * stands on the filter is moved to where the merge ends, as those are who stood on the layer before.
   */
  readonly #detours = new Map<number, { node: string; jobId: string }>();
  /** Short work on open nodes: nothing is closed before it has ended. */
  readonly #borrowing = new Set<Promise<unknown>>();
  /** Files about to be opened, and how often: work on closed files must not begin on them. */
  readonly #opening = new Map<number, number>();

  constructor(store: FileStore, qmp: QmpClient, options: GraphOptions) {
    this.store = store;
    this.qmp = qmp;
    this.#direct = options.direct;
    this.#prefix = options.prefix ?? '';
    // Every job and every export being removed listens.
    qmp.setMaxListeners(0);
  }

  get alive(): boolean {
    return !this.qmp.closed;
  }

  nodeName(id: number): string {
    return `${this.#prefix}l${id.toString(36)}`;
  }

  /** The job of a recorded merge. */
  jobName(intent: number): string {
    return `${this.#prefix}j${intent}`;
  }

  isOurJob(name: string): boolean {
    return name === this.jobName(Number(name.slice(this.#prefix.length + 1)));
  }

  /** Whether its node was opened here, so that its options are known. */
  protected isOurs(_id: number): boolean {
    return true;
  }

  /** The node to stand on for a layer's content. */
  #standing(id: number): string {
    return this.#detours.get(id)?.node ?? this.nodeName(id);
  }

  isOpen(id: number): boolean {
    return this.#nodes.has(id);
  }

  isOpenWritable(id: number): boolean {
    return this.#nodes.get(id)?.readOnly === false;
  }

  backingOf(id: number): number | null | undefined {
    return this.#nodes.get(id)?.backing;
  }

  rootNamed(root: string): number | undefined {
    return this.#roots.get(root);
  }

  rootNames(): string[] {
    return [...this.#roots.keys()];
  }

  /** Whether a root of one of these kinds (`reader`, `export`, …) stands directly on the file. */
  isHeldBy(id: number, kinds: readonly string[]): boolean {
    for (const [name, file] of this.#roots) {
      if (file === id && kinds.some((kind) => name.startsWith(`${kind}:`))) return true;
    }
    return false;
  }

  /** Open nodes whose backing is this one. */
  childrenOf(id: number): number[] {
    return [...this.#nodes].filter(([, node]) => node.backing === id).map(([child]) => child);
  }

  /**
   * Opens a chain (top first) and keeps it for `root`. Layers already open are shared.
   * @throws drive_busy when the top is open in the other mode
   */
  async open(root: string, chain: readonly ChainLink[], options: { writable: boolean }): Promise<void> {
    const top = chain[0];
    if (top === undefined) throw new CalotypeError('internal', 'An empty chain was to be opened.');
    for (const link of chain) this.#opening.set(link.id, (this.#opening.get(link.id) ?? 0) + 1);
    try {
      for (const link of chain) await this.#evictWork(link.id);
      await this.#lock.run(async () => {
        const known = this.#nodes.get(top.id);
        if (known !== undefined && known.readOnly === options.writable) {
          throw new CalotypeError('drive_busy', 'The drive is being read; close its readers first.');
        }
        this.#roots.set(root, top.id);
        try {
          await this.#detoured(chain, () => this.#addMissing(chain, options.writable));
        } catch (error) {
          this.#roots.delete(root);
          await this.#dropUnused();
          throw error;
        }
      });
    } finally {
      for (const link of chain) {
        const left = (this.#opening.get(link.id) ?? 1) - 1;
        if (left === 0) this.#opening.delete(link.id);
        else this.#opening.set(link.id, left);
      }
    }
  }

  /**
   * Runs work on a file that is not open. Who opens it meanwhile aborts the work and waits for its end, so the work must
   * leave the file fit to be opened.
   * @returns whether the work came to its end
   */
  async whileClosed(id: number, work: (evicted: AbortSignal) => Promise<void>): Promise<boolean> {
    if (this.#nodes.has(id) || this.#opening.has(id) || this.#closedWork.has(id)) return false;
    const evict = new AbortController();
    const running = work(evict.signal);
    this.#closedWork.set(id, {
      evict,
      ended: running.then(
        () => undefined,
        () => undefined,
      ),
    });
    try {
      await running;
      return true;
    } catch (error) {
      if (evict.signal.aborted) return false;
      throw error;
    } finally {
      this.#closedWork.delete(id);
    }
  }

  async #evictWork(id: number): Promise<void> {
    const running = this.#closedWork.get(id);
    running?.evict.abort();
    await running?.ended;
  }

  /**
   * Runs short work on a node that is open for writing, such as an export of our own; who wants to close it waits.
   * @returns undefined where it is not open for writing (any more)
   */
  async whileOpen<T>(id: number, work: () => Promise<T>): Promise<T | undefined> {
    const running = await this.#lock.run(async () => {
      if (!this.isOpenWritable(id)) return undefined;
      const begun = work().finally(() => this.#borrowing.delete(begun));
      this.#borrowing.add(begun);
      return { begun };
    });
    return running?.begun;
  }

  /** Opens an empty overlay, apart from any chain, ready for `pivot`. Read-only where the drive is only read. */
  async openSpare(root: string, id: number, options: { readOnly: boolean } = { readOnly: false }): Promise<void> {
    await this.#lock.run(async () => {
      if (!this.#nodes.has(id)) {
        await this.#addNodes([{ id, backing: null, readOnly: options.readOnly }]);
      }
      this.#roots.set(root, id);
    });
  }

  /** Moves a root to another open node. */
  setRoot(root: string, id: number): void {
    this.#roots.set(root, id);
  }

  /** Lets go of a root; the next `release` or `tidy` closes what it held. */
  dropRoot(root: string): void {
    this.#roots.delete(root);
  }

  /** Lets go of roots; closes what nobody needs any more. */
  async release(...roots: string[]): Promise<void> {
    for (const root of roots) this.#roots.delete(root);
    await this.#lock.run(() => this.#dropUnused());
  }

  /**
   * Puts each overlay on its drive's top, all at one instant; exports move along. Flushes the old tops first.
   * @throws engine_failed when QEMU refused: nothing has changed then
   */
  async pivot(pairs: readonly { top: number; overlay: number }[]): Promise<void> {
    const actions = pairs.map((pair) => ({ node: this.nodeName(pair.top), overlay: this.nodeName(pair.overlay) }));
    const [first] = actions;
    await this.#shape.run(async () => {
      if (first !== undefined && actions.length === 1) await this.qmp.execute('blockdev-snapshot', first);
      else {
        await this.qmp.execute('transaction', {
          actions: actions.map((data) => ({ type: 'blockdev-snapshot', data })),
        });
      }
      for (const pair of pairs) this.#notePivot(pair);
    });
  }

  #notePivot(pair: { top: number; overlay: number }): void {
    const overlay = this.#nodes.get(pair.overlay);
    if (overlay !== undefined) overlay.backing = pair.top;
    const old = this.#nodes.get(pair.top);
    if (old !== undefined) old.readOnly = true;
    this.#moveExports(pair.top, pair.overlay);
  }

  /** QEMU moves a drive's exports onto the overlay; so do their roots. */
  #moveExports(from: number, to: number): void {
    for (const [root, id] of this.#roots) {
      if (id === from && root.startsWith('export:')) this.#roots.set(root, to);
    }
  }

  /**
   * `pivot` onto an overlay and, in the same write, exchange of the overlay's backing: the revert of an exported drive. The
   * chain of `backing` must be open; image headers are left as they are. Throws when QEMU refused any part; the mirror then
   * says what was done: an overlay on its point, on the old top, or not yet in place.
   */
  async pivotOnto(pairs: readonly { top: number; overlay: number; backing: number }[]): Promise<void> {
    const links = pairs.map((pair) => ({ id: pair.overlay, backing_id: pair.backing }));
    await this.#shape.run(async () => {
      const snapshots: QmpCommand[] = pairs.map((pair) => ({
        execute: 'blockdev-snapshot',
        arguments: { node: this.nodeName(pair.top), overlay: this.nodeName(pair.overlay) },
      }));
      const exchanges: QmpCommand[] = pairs.map((pair) => this.#reopenCommand(pair.overlay, pair.backing));
      const results = await this.qmp.executeEach([...snapshots, ...exchanges]);
      for (const [at, pair] of pairs.entries()) {
        if (results[at]?.status !== 'fulfilled') continue;
        this.#notePivot(pair);
        if (results[pairs.length + at]?.status === 'fulfilled') this.noteBacking(pair.overlay, pair.backing);
      }
      const failed = results.find((result) => result.status === 'rejected');
      if (failed?.status !== 'rejected') return;
      if (pairs.some((pair) => this.backingOf(pair.overlay) === null)) throw failed.reason;
      await this.#detoured(links, async () => {
        for (const pair of pairs) {
          if (this.backingOf(pair.overlay) === pair.backing) continue;
          await this.qmp.executeAll([this.#reopenCommand(pair.overlay, pair.backing)]);
          this.noteBacking(pair.overlay, pair.backing);
        }
      });
    });
  }

  /** Exchanges the backing of an open node for an open one of the same content, and says so in the image header. */
  async relink(id: number, backing: number | null): Promise<void> {
    await this.#shape.run(async () => {
      if (!this.#nodes.has(id)) throw new CalotypeError('internal', `Layer ${id} is not open.`);
      const commands = [this.#reopenCommand(id, backing)];
      // QEMU cannot write "no backing": a file gets there only by `qemu-img rebase`, which has written it.
      if (backing !== null) commands.push(this.#headerCommand(id, this.#topAbove(id), backing));
      await this.#detoured([{ id, backing_id: backing }], () => this.qmp.executeAll(commands));
      this.noteBacking(id, backing);
    });
  }

  #reopenCommand(id: number, backing: number | null): QmpCommand {
    const readOnly = this.#nodes.get(id)?.readOnly ?? false;
    return { execute: 'blockdev-reopen', arguments: { options: [this.#nodeOptions(id, backing, readOnly)] } };
  }

  #headerCommand(id: number, top: number, backing: number): QmpCommand {
    return {
      execute: 'change-backing-file',
      arguments: {
        device: this.nodeName(top),
        'image-node-name': this.nodeName(id),
        'backing-file': this.store.nameOf(backing),
      },
    };
  }

  /** Resolves when every change of shape sent so far is in the mirror. */
  async shapeIsKnown(): Promise<void> {
    await this.#shape.run(async () => undefined);
  }

  /** Notes that QEMU itself has changed backings, as a finished commit job does. */
  noteBacking(id: number, backing: number | null): void {
    const node = this.#nodes.get(id);
    if (node !== undefined) node.backing = backing;
  }

  async addExport(id: string, exportName: string, fileId: number, writable: boolean): Promise<void> {
    await this.#detoured([{ id: fileId, backing_id: null }], () =>
      this.qmp.execute('block-export-add', {
        type: 'nbd',
        id: exportNode(id),
        'node-name': this.#standing(fileId),
        name: exportName,
        writable,
        'allocation-depth': true,
      }),
    );
  }

  /** Runs commands that may stand on a merge's filter. When the merge ends meanwhile the filter is gone, and they run again. */
  async #detoured<T>(links: readonly ChainLink[], run: () => Promise<T>): Promise<T> {
    const used = links.flatMap((link) => [link.id, link.backing_id ?? -1]).filter((id) => this.#detours.has(id));
    try {
      return await run();
    } catch (error) {
      if (used.length === 0 || !(error instanceof QmpError)) throw error;
      const running = new Set((await this.jobs()).filter((job) => job.status !== 'concluded').map((job) => job.id));
      for (const id of used) if (!running.has(this.#detours.get(id)?.jobId ?? '')) this.#detours.delete(id);
      if (used.every((id) => this.#detours.has(id))) throw error;
      return run();
    }
  }

  /** Readers of a layer that was merged down stand on the lower one now, as their exports do. */
  moveReaders(from: number, to: number): void {
    for (const [root, id] of this.#roots) {
      if (id === from && /^(reader|export):/.test(root)) this.#roots.set(root, to);
    }
  }

  /** Ends an export and waits until its clients are gone. Idempotent. */
  async removeExport(id: string): Promise<void> {
    const name = exportNode(id);
    const gone = new Promise<void>((resolve) => {
      const done = (): void => {
        this.qmp.off('event', onEvent);
        this.qmp.off('close', done);
        resolve();
      };
      const onEvent = (event: QmpEvent): void => {
        if (event.event === 'BLOCK_EXPORT_DELETED' && event.data?.id === name) done();
      };
      this.qmp.on('event', onEvent);
      this.qmp.once('close', done);
      this.qmp.execute('block-export-del', { id: name, mode: 'hard' }).catch(done);
    });
    await gone;
  }

  /** Exports and the file each stands on now. */
  async exports(): Promise<{ id: string; fileId: number | null }[]> {
    const found = await this.qmp.execute<{ id: string; 'node-name': string }[]>('query-block-exports');
    return found
      .filter((item) => item.id.startsWith('e-'))
      .map((item) => ({ id: item.id.slice(2), fileId: this.idOfNode(item['node-name']) }));
  }

  async jobs(): Promise<JobInfo[]> {
    return this.qmp.execute<JobInfo[]>('query-jobs');
  }

  /**
   * Commits one layer down into another, which is not its drive's top: so a stand-in root is put above it, and drives
   * above go on taking snapshots meanwhile. Ends with the job *pending*: all data moved, links unchanged.
   * @throws cancelled, space_exhausted, engine_failed; the layers then read as before
   */
  async commitDown(
    jobId: string,
    layers: { upper: number; lower: number; standIn: number },
    control: WorkControl,
    onShare: (share: number) => void,
  ): Promise<void> {
    let speed = control.wishes().bytesPerSecond;
    await this.#takeZeroesAsHoles(layers.lower);
    const changed = this.#jobWaiter(jobId, control.signal);
    // Known before it is sent: what is sent after it finds the filter there.
    this.#detours.set(layers.upper, { node: `c-${jobId}`, jobId });
    try {
      const begun = this.qmp.execute('block-commit', {
        'job-id': jobId,
        device: this.nodeName(layers.standIn),
        'top-node': this.nodeName(layers.upper),
        'base-node': this.nodeName(layers.lower),
        'filter-node-name': `c-${jobId}`,
        'auto-finalize': false,
        'auto-dismiss': false,
        'on-error': 'enospc',
        ...(speed > 0 ? { speed } : {}),
      });
      await begun.catch((error: unknown) => {
        this.#forgetDetour(jobId);
        throw error;
      });
      let paused = false;
      let cancelling = false;
      let outOfSpace = false;
      for (;;) {
        const job = (await this.jobs()).find((item) => item.id === jobId);
        if (job === undefined) throw new CalotypeError('engine_failed', 'The merge job disappeared.');
        if (job.status === 'pending') {
          onShare(1);
          return;
        }
        if (job.status === 'concluded') {
          this.#detours.delete(layers.upper);
          await this.qmp.execute('job-dismiss', { id: jobId });
          if (outOfSpace) throw new CalotypeError('space_exhausted', 'The disk is full; the merge was put off.');
          if (control.signal.aborted) throw new CalotypeError('cancelled');
          throw new CalotypeError('engine_failed', `The merge failed: ${job.error ?? 'no reason given'}.`);
        }
        const share = job['total-progress'] > 0 ? job['current-progress'] / job['total-progress'] : 0;
        onShare(share);
        if (!cancelling) {
          outOfSpace = await this.#stoppedForSpace(jobId);
          const wishes = control.wishes();
          if (control.signal.aborted || outOfSpace) {
            cancelling = true;
            await this.#steerJob('job-cancel', { id: jobId });
          } else if (wishes.paused !== paused) {
            paused = wishes.paused;
            await this.#steerJob(paused ? 'block-job-pause' : 'block-job-resume', { device: jobId });
          } else if (wishes.bytesPerSecond !== speed) {
            speed = wishes.bytesPerSecond;
            await this.#steerJob('block-job-set-speed', { device: jobId, speed });
          }
        }
        await changed.wait();
      }
    } finally {
      changed.stop();
    }
  }

  #forgetDetour(jobId: string): void {
    for (const [id, detour] of this.#detours) if (detour.jobId === jobId) this.#detours.delete(id);
  }

  /** The job may have come to its end meanwhile, and then takes no more orders. */
  async #steerJob(command: string, args: Record<string, unknown>): Promise<void> {
    await this.qmp.execute(command, args).catch((error: unknown) => {
      if (!(error instanceof QmpError)) throw error;
    });
  }

  /** A commit job writes what it moves, also where it reads zeros: the lower layer turns those into holes again. */
  async #takeZeroesAsHoles(id: number): Promise<void> {
    if (!this.isOurs(id)) return;
    await this.#shape.run(async () => {
      const node = this.#nodes.get(id);
      if (node === undefined) throw new CalotypeError('internal', `Layer ${id} is not open.`);
      const options = { ...this.#nodeOptions(id, node.backing, node.readOnly), 'detect-zeroes': 'unmap' };
      await this.qmp.execute('blockdev-reopen', { options: [options] });
    });
  }

  /** Lets a pending commit take effect in the daemon's graph and headers. */
  async finishCommit(jobId: string): Promise<void> {
    const changed = this.#jobWaiter(jobId);
    try {
      await this.qmp.execute('job-finalize', { id: jobId });
      for (;;) {
        const job = (await this.jobs()).find((item) => item.id === jobId);
        if (job === undefined) throw new CalotypeError('engine_failed', 'The merge job disappeared.');
        if (job.status === 'concluded') {
          this.#forgetDetour(jobId);
          if (job.error !== undefined) throw new CalotypeError('engine_failed', `The merge failed: ${job.error}.`);
          return;
        }
        await changed.wait();
      }
    } finally {
      changed.stop();
    }
  }

  /** Ends a job in whatever state it is, and forgets it. Idempotent. */
  async endJob(jobId: string): Promise<void> {
    const changed = this.#jobWaiter(jobId);
    try {
      for (;;) {
        const job = (await this.jobs()).find((item) => item.id === jobId);
        if (job === undefined || job.status === 'concluded') this.#forgetDetour(jobId);
        if (job === undefined) return;
        if (job.status === 'concluded') await this.#steerJob('job-dismiss', { id: jobId });
        else {
          await this.#steerJob('job-cancel', { id: jobId });
          await changed.wait();
        }
      }
    } finally {
      changed.stop();
    }
  }

  /** Reads the daemon's graph afresh: what a server that comes back finds. */
  async learn(): Promise<void> {
    const found = await this.qmp.execute<BlockNodeInfo[]>('query-named-block-nodes', { flat: true });
    this.#nodes.clear();
    const edges = await this.qmp.execute<{
      nodes: { id: number; name: string }[];
      edges: { parent: number; child: number; name: string }[];
    }>('x-debug-query-block-graph');
    const names = new Map(edges.nodes.map((node) => [node.id, node.name]));
    const below = new Map(
      edges.edges.filter((edge) => edge.name === 'backing').map((edge) => [edge.parent, edge.child]),
    );
    const graphIds = new Map(edges.nodes.map((node) => [node.name, node.id]));
    for (const info of found) {
      const id = this.idOfNode(info['node-name']);
      if (id === null) continue;
      // A job's filter node may stand between two layers.
      let at = below.get(graphIds.get(info['node-name']) ?? -1);
      while (at !== undefined && this.idOfNode(names.get(at) ?? '') === null) at = below.get(at);
      this.#nodes.set(id, {
        backing: at === undefined ? null : this.idOfNode(names.get(at) ?? ''),
        readOnly: info.ro,
      });
    }
    // A server that died between two commands may have left a file open without its layer.
    const bare = found.map((info) => info['node-name']).filter((name) => this.#numberIn(name, 'f') !== null);
    const unused = bare.filter((name) => !this.#nodes.has(this.#numberIn(name, 'f') ?? 0));
    await this.qmp.executeEach(unused.map((name) => ({ execute: 'blockdev-del', arguments: { 'node-name': name } })));
  }

  /** Closes open nodes that no root needs; for use after `learn` and the setting of roots. */
  async tidy(): Promise<void> {
    await this.#lock.run(() => this.#dropUnused());
  }

  /** Wakes at each sign of life of a job, and now and then without. */
  #jobWaiter(jobId: string, signal?: AbortSignal): { wait(): Promise<void>; stop(): void } {
    let dirty = false;
    let wake: (() => void) | undefined;
    const touch = (): void => {
      dirty = true;
      wake?.();
    };
    const onEvent = (event: QmpEvent): void => {
      if ((event.data?.id ?? event.data?.device) === jobId) touch();
    };
    this.qmp.on('event', onEvent);
    this.qmp.on('close', touch);
    signal?.addEventListener('abort', touch);
    return {
      wait: async () => {
        if (!dirty) {
          let timer: NodeJS.Timeout | undefined;
          await new Promise<void>((resolve) => {
            wake = resolve;
            timer = setTimeout(resolve, jobPollMs);
          });
          clearTimeout(timer);
          wake = undefined;
        }
        dirty = false;
      },
      stop: () => {
        this.qmp.off('event', onEvent);
        this.qmp.off('close', touch);
        signal?.removeEventListener('abort', touch);
      },
    };
  }

  async #stoppedForSpace(jobId: string): Promise<boolean> {
    const jobs = await this.qmp.execute<{ device: string; 'io-status': string }[]>('query-block-jobs');
    return jobs.some((job) => job.device === jobId && job['io-status'] === 'nospace');
  }

  async #addMissing(chain: readonly ChainLink[], writable: boolean): Promise<void> {
    const missing = chain.filter((link) => !this.#nodes.has(link.id)).reverse();
    await this.#addNodes(
      missing.map((link) => ({
        id: link.id,
        backing: link.backing_id,
        readOnly: !(writable && link === chain[0]),
      })),
    );
  }

  async #dropUnused(): Promise<void> {
    if (this.#unused().length > 0) await Promise.allSettled([...this.#borrowing]);
    const order = this.#unused();
    if (order.length === 0) return;
    const results = await this.qmp.executeEach(order.flatMap((id) => this.#deleteCommands(id)));
    for (const [at, id] of order.entries()) {
      const result = results[2 * at];
      // A node that QEMU opened by itself it has closed by itself.
      const gone = result?.status === 'rejected' && /Failed to find node/.test(String(result.reason));
      if (result?.status === 'fulfilled' || gone) this.#nodes.delete(id);
    }
  }

  /** Open nodes that no root stands on, upper ones first. */
  #unused(): number[] {
    const needed = new Set<number>();
    for (const root of this.#roots.values()) {
      for (let id: number | null = root; id !== null && !needed.has(id); id = this.#nodes.get(id)?.backing ?? null) {
        needed.add(id);
      }
    }
    const parents = new Map<number, number>();
    for (const node of this.#nodes.values()) {
      if (node.backing !== null) parents.set(node.backing, (parents.get(node.backing) ?? 0) + 1);
    }
    const order: number[] = [];
    const ready = [...this.#nodes.keys()].filter((id) => !needed.has(id) && (parents.get(id) ?? 0) === 0);
    for (let id = ready.pop(); id !== undefined; id = ready.pop()) {
      order.push(id);
      const backing = this.#nodes.get(id)?.backing ?? null;
      if (backing === null) continue;
      const left = (parents.get(backing) ?? 1) - 1;
      parents.set(backing, left);
      if (left === 0 && !needed.has(backing)) ready.push(backing);
    }
    return order;
  }

  /** A node with nothing above it, somewhere above this one: QEMU wants one named. */
  #topAbove(id: number): number {
    let at = id;
    for (let parent = this.childrenOf(at)[0]; parent !== undefined; parent = this.childrenOf(at)[0]) at = parent;
    return at;
  }

  protected idOfNode(name: string): number | null {
    return this.#numberIn(name, 'l');
  }

  #numberIn(name: string, kind: 'l' | 'f'): number | null {
    const digits = name.slice(this.#prefix.length + 1);
    return name === `${this.#prefix}${kind}${digits}` && /^[0-9a-z]+$/.test(digits)
      ? Number.parseInt(digits, 36)
      : null;
  }

  #nodeOptions(id: number, backing: number | null, readOnly: boolean): Record<string, unknown> {
    return {
      driver: this.store.formatOf(id),
      'node-name': this.nodeName(id),
      file: this.fileNodeName(id),
      ...(this.store.formatOf(id) === 'raw' ? {} : { backing: backing === null ? null : this.#standing(backing) }),
      discard: 'unmap',
      ...(this.#direct ? { cache: { direct: true } } : {}),
      ...(readOnly ? { 'read-only': true } : {}),
      ...(readOnly && this.store.formatOf(id) === 'qcow2' ? { 'l2-cache-size': layerCacheBytes } : {}),
    };
  }

  protected fileNodeName(id: number): string {
    return `${this.#prefix}f${id.toString(36)}`;
  }

  /**
   * A file is a node of its own, open for writing whatever the layer on it is. As a part of the layer's node it would be
   * reopened with that, and QEMU 7.2 may then close a descriptor that a request in flight still uses.
   */
  #addCommands(id: number, backing: number | null, readOnly: boolean): [QmpCommand, QmpCommand] {
    const file = {
      driver: 'file',
      'node-name': this.fileNodeName(id),
      filename: this.store.nameOf(id),
      discard: 'unmap',
      ...(this.#direct ? { cache: { direct: true } } : {}),
    };
    return [
      { execute: 'blockdev-add', arguments: file },
      { execute: 'blockdev-add', arguments: this.#nodeOptions(id, backing, readOnly) },
    ];
  }

  #deleteCommands(id: number): [QmpCommand, QmpCommand] {
    return [
      { execute: 'blockdev-del', arguments: { 'node-name': this.nodeName(id) } },
      { execute: 'blockdev-del', arguments: { 'node-name': this.fileNodeName(id) } },
    ];
  }

  /** Opens layers, lower ones first. What could be opened stays so when another could not. */
  async #addNodes(layers: readonly { id: number; backing: number | null; readOnly: boolean }[]): Promise<void> {
    const results = await this.qmp.executeEach(
      layers.flatMap(({ id, backing, readOnly }) => this.#addCommands(id, backing, readOnly)),
    );
    const left: QmpCommand[] = [];
    let failure: unknown;
    for (const [at, { id, backing, readOnly }] of layers.entries()) {
      const [file, layer] = results.slice(2 * at);
      if (layer?.status === 'fulfilled') this.#nodes.set(id, { backing, readOnly });
      else if (file?.status === 'fulfilled') left.push(this.#deleteCommands(id)[1]);
      failure ??= file?.status === 'rejected' ? file.reason : layer?.status === 'rejected' ? layer.reason : undefined;
    }
    await this.qmp.executeEach(left);
    if (failure !== undefined) throw failure;
  }
}

/** The storage daemon's graph, which also serves exports. */
export class DaemonGraph extends Graph {
  readonly daemon: StorageDaemon;

  constructor(store: FileStore, daemon: StorageDaemon, options: GraphOptions) {
    super(store, daemon.qmp, options);
    this.daemon = daemon;
  }
}

function exportNode(id: string): string {
  return `e-${id}`;
}
