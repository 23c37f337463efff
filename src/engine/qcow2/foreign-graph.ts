/**
 * The graph of a QEMU process that somebody else runs, as far as drives of ours are in it. Nodes that were there go by the
 * names they have and are told apart by their files; those that are added here have names of their own. Whatever else
 * the process has is left alone.
 */
import type { LayerFormat } from '../../catalog/schema.ts';
import type { ForeignDrive } from '../../qemu/foreign-drives.ts';
import type { QmpClient } from '../../qemu/qmp.ts';
import type { FileStore } from './file-store.ts';
import { Graph } from './graph.ts';

const prefix = 'calotype-';

export interface KnownFile {
  readonly id: number;
  readonly path: string | null;
  readonly format: LayerFormat;
}

export class ForeignGraph extends Graph {
  /** Nodes by file, where they go by another name than ours. */
  readonly #names = new Map<number, { node: string; file: string }>();
  readonly #ids = new Map<string, number>();

  constructor(store: FileStore, qmp: QmpClient, drives: readonly ForeignDrive[]) {
    super(store, qmp, { direct: drives.some((drive) => drive.direct), prefix });
  }

  /** Reads the process's graph afresh: what its drives stand on, by the files that are known. */
  async learnFiles(drives: readonly ForeignDrive[], files: readonly KnownFile[]): Promise<void> {
    const byPath = new Map(files.map((file) => [file.path, file.id]));
    this.#names.clear();
    this.#ids.clear();
    for (const layer of drives.flatMap((drive) => drive.chain)) {
      const id = byPath.get(layer.path);
      if (id === undefined || layer.nodeName === super.nodeName(id)) continue;
      this.#names.set(id, { node: layer.nodeName, file: layer.fileNodeName });
      this.#ids.set(layer.nodeName, id);
    }
    await this.learn();
  }

  override nodeName(id: number): string {
    return this.#names.get(id)?.node ?? super.nodeName(id);
  }

  protected override fileNodeName(id: number): string {
    return this.#names.get(id)?.file ?? super.fileNodeName(id);
  }

  protected override isOurs(id: number): boolean {
    return !this.#names.has(id);
  }

  protected override idOfNode(name: string): number | null {
    return this.#ids.get(name) ?? super.idOfNode(name);
  }
}
