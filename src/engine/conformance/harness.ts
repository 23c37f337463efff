/** What an engine brings along to be held to the contract. A module that exports it as `harness` is also loaded by a child process. */
import type { Catalog } from '../../catalog/catalog.ts';
import type { Engine } from '../engine.ts';

export interface EngineParts {
  readonly catalog: Catalog;
  readonly dataDirectory: string;
  readonly logger: { info(message: string): void; warn(message: string): void };
  readonly minFreeBytes?: number;
  readonly reserveBytes?: number;
  /** Called at every durable step, by name. */
  readonly onStep?: (name: string) => void;
}

export interface EngineHarness {
  make(parts: EngineParts): Engine;
  /** `file:` URL of the module itself. */
  readonly module: string;
  /** Ends with SIGKILL what serves the data, as a crash would, and waits until it is gone. */
  killProcesses(dataDirectory: string): Promise<void>;
  /** Bytes that drives and snapshots take on disk. */
  usedBytes(dataDirectory: string): Promise<number>;
  /** Bytes of a drive with nothing in it, at most: what is not data. */
  readonly overheadBytes: number;
  /** Layers a read may have to walk, at most. */
  readonly maxDepth: number;
}
