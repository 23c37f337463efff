/** What every use case works with, put together once by `createService`. */
import type { Catalog } from '../catalog/catalog.ts';
import type { MachineRow } from '../catalog/schema.ts';
import type { ExportId, MachineId } from '../core/ids.ts';
import type { MachineRuntime } from '../core/model.ts';
import { nowUs } from '../core/time.ts';
import type { Engine, NbdTarget } from '../engine/engine.ts';
import type { RunningMachine } from '../qemu/running-machine.ts';
import type { AdoptedMachines } from './adopted-machines.ts';
import type { EventFeed } from './event-feed.ts';
import type { ExportBook } from './export-book.ts';
import type { MachineProcesses } from './machine-processes.ts';
import type { Observer } from './observer.ts';
import type { TaskRunner } from './runner.ts';
import type { SizeBook } from './sizes.ts';

/** The few methods of pino that the service uses. */
export interface Logger {
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
  error(details: object, message: string): void;
}

export interface TlsPsk {
  readonly identity: string;
  readonly keyHex: string;
}

/** Serves exports over TCP; the lead's NBD gateway. Both methods are idempotent by export id. */
export interface Gateway {
  startGateway(request: {
    exportId: ExportId;
    target: NbdTarget;
    host: string;
    /** 0 picks one. */
    port: number;
    /** `psk` is given when the export was served before and its clients hold that key. */
    tls: boolean;
    psk?: TlsPsk;
  }): Promise<{ port: number; psk?: TlsPsk }>;
  stopGateway(exportId: ExportId): Promise<void>;
}

export interface ServiceConfig {
  /** Uploads and conversions go to `tmp` in it. */
  readonly dataDirectory: string;
  /** Where the operator puts images to import; null: nowhere. */
  readonly importDirectory: string | null;
  /** Where the operator puts kernels for machines to start by. */
  readonly bootDirectory: string;
  readonly maxImportBytes: number;
  /** Largest size of a drive. */
  readonly maxDriveBytes: number;
  /** Default 90. */
  readonly keepEventsDays?: number;
  /** Of what a guest writes to its serial port, so much of the end at least; default 8 MiB. */
  readonly keptSerialBytes?: number;
  /** How long a guest may take to let go of a drive, in milliseconds; 15,000 unless set. */
  readonly unplugTimeoutMs?: number;
  readonly gateway?: Gateway;
  readonly observer?: Observer;
  /** Called at every step of a change of a machine or image that a crash may come between, by name; a test dies here. */
  readonly onStep?: (name: string) => void;
}

export interface Context {
  readonly catalog: Catalog;
  readonly engine: Engine;
  readonly config: ServiceConfig;
  readonly logger: Logger;
  readonly runner: TaskRunner;
  readonly feed: EventFeed;
  readonly exports: ExportBook;
  readonly sizes: SizeBook;
  readonly machines: MachineProcesses;
  readonly adopted: AdoptedMachines;
}

/** The process of a machine that runs, whoever started it. */
export function runningMachine(context: Context, id: MachineId): RunningMachine | undefined {
  return context.machines.find(id) ?? context.adopted.find(id);
}

/** What is known of the process of a machine that runs. */
export function runtimeOf(context: Context, row: MachineRow): MachineRuntime | null {
  const running = runningMachine(context, row.id);
  if (running === undefined) return null;
  const { pid, qemuVersion, accelerator, power } = running;
  return { pid, accelerator, qemuVersion, power, startedAt: row.started_at ?? nowUs() };
}
