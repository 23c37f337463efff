/**
 * Puts the use cases together and brings them into motion: takes up the tasks of the last process, puts right what it
 * left in between, and keeps the house while it runs. The engine must be open, and stays the caller's to close.
 */
import { sql } from 'kysely';
import type { Catalog } from '../catalog/catalog.ts';
import { pruneEvents } from '../catalog/events.ts';
import { pruneKeys } from '../catalog/idempotency.ts';
import type { ProjectId } from '../core/ids.ts';
import { nowUs } from '../core/time.ts';
import type { Engine } from '../engine/engine.ts';
import { AdoptedMachines } from './adopted-machines.ts';
import { Compaction } from './compaction.ts';
import type { Context, Logger, ServiceConfig } from './context.ts';
import { registerDriveDelete } from './drive-delete.ts';
import { registerDriveTasks } from './drive-tasks.ts';
import { driveUseCases } from './drives.ts';
import { EventFeed } from './event-feed.ts';
import { eventUseCases } from './events.ts';
import { ExportBook } from './export-book.ts';
import { exportUseCases, reopenGateways } from './exports.ts';
import { registerImageCreate } from './image-create.ts';
import { registerImageDelete } from './image-delete.ts';
import { imageUseCases } from './images.ts';
import { cleanTemporary, registerImports } from './imports.ts';
import type { Service } from './interface.ts';
import { registerMachineAdoption } from './machine-adoption.ts';
import { registerMachineClones } from './machine-clones.ts';
import { registerMachineDelete } from './machine-delete.ts';
import { MachineProcesses } from './machine-processes.ts';
import { registerMachineReverts } from './machine-reverts.ts';
import { registerMachineSnapshots } from './machine-snapshots.ts';
import { registerMachineTasks, settleMachine, settleUnplugged } from './machine-tasks.ts';
import { machineUseCases } from './machines.ts';
import { examineMemory } from './memory-doctor.ts';
import { sweepMemory } from './memory-save.ts';
import { numberUseCases } from './numbers.ts';
import { preferenceUseCases } from './preferences.ts';
import { queryUseCases } from './queries.ts';
import { Reclaimer } from './reclaim.ts';
import { rememberLists } from './remembered-lists.ts';
import { repairStates } from './repair.ts';
import { registerReverts } from './reverts.ts';
import { assertOperator } from './rights.ts';
import { TaskRunner } from './runner.ts';
import { sharingUseCases, withMemory } from './sharing.ts';
import { SizeBook } from './sizes.ts';
import { registerSnapshotDelete } from './snapshot-delete.ts';
import { registerSnapshotTasks } from './snapshot-tasks.ts';
import { snapshotUseCases } from './snapshots.ts';
import { tagUseCases } from './tags.ts';
import { taskUseCases } from './tasks.ts';
import { traitUseCases } from './traits.ts';

const dayUs = 24 * 3600 * 1_000_000;
const houseEveryMs = 3600_000;
const defaultKeepEventsDays = 90;

export interface ServiceParts {
  readonly catalog: Catalog;
  readonly engine: Engine;
  readonly config: ServiceConfig;
  readonly logger: Logger;
}

export interface RunningService extends Service {
  /** What start-up found: tasks taken up, objects put right. */
  readonly recovered: { readonly tasks: number; readonly objects: number };
  /** The machines that run now. */
  readonly processes: MachineProcesses;
  /** Lets short work finish; what is left goes on at the next start. Neither engine nor catalog are closed. */
  close(graceMs?: number): Promise<void>;
}

export async function createService(parts: ServiceParts): Promise<RunningService> {
  const { catalog, engine, config, logger } = parts;
  const feed = new EventFeed(catalog, logger);
  const runner = new TaskRunner({ catalog, logger, observer: config.observer ?? {}, wake: feed.wake });
  const exports = new ExportBook();
  await exports.load(catalog);
  const sizes = new SizeBook({ catalog, engine, exports, logger });
  const { dataDirectory, keptSerialBytes } = config;
  const machines = new MachineProcesses({ catalog, dataDirectory, logger, keptSerialBytes });
  machines.wake = feed.wake;
  machines.onDied = () => config.observer?.machineDied?.();
  const adopted = new AdoptedMachines({ catalog, engine, logger });
  adopted.wake = feed.wake;
  const context: Context = { catalog, engine, config, logger, runner, feed, exports, sizes, machines, adopted };
  const compaction = new Compaction(context);
  const reclaimer = new Reclaimer(context);

  registerDriveTasks(context);
  registerImports(context);
  registerDriveDelete(context, reclaimer);
  registerSnapshotTasks(context, compaction);
  registerSnapshotDelete(context, reclaimer);
  registerImageCreate(context);
  registerImageDelete(context, reclaimer);
  registerReverts(context, reclaimer, compaction);
  registerMachineTasks(context);
  registerMachineDelete(context);
  registerMachineSnapshots(context, compaction);
  registerMachineReverts(context, compaction);
  registerMachineClones(context);
  registerMachineAdoption(context);
  const useCases = {
    queries: rememberLists(context, queryUseCases(context)),
    numbers: numberUseCases(context),
    sharing: withMemory(catalog, sharingUseCases(context)),
    machines: machineUseCases(context),
    drives: driveUseCases(context),
    snapshots: snapshotUseCases(context),
    images: imageUseCases(context),
    exports: exportUseCases(context),
    tasks: taskUseCases(context),
    events: eventUseCases(context),
    tags: tagUseCases(context),
    traits: traitUseCases(context),
    preferences: preferenceUseCases(catalog),
    limits: { maxDriveBytes: config.maxDriveBytes },
  };

  machines.onEnded = (machine) => settleMachine(context, machine);
  machines.onUnplugged = (id) => void settleUnplugged(context, id);
  await machines.adoptAll();
  await adopted.watchAll();
  engine.onServedAnew(() => {
    machines.loseDrives().catch((error) => logger.error({ err: error }, 'machines could not be ended'));
  });
  const tasks = await runner.recover();
  for (const id of machines.running()) void settleUnplugged(context, id);
  const objects = await repairStates(context);
  await cleanTemporary(context);
  await reopenGateways(context);
  await sweepMemory(context);
  const keepHouse = async (): Promise<void> => {
    try {
      await pruneKeys(catalog.db, nowUs());
      const before = nowUs() - (config.keepEventsDays ?? defaultKeepEventsDays) * dayUs;
      while (!runner.closing && (await pruneEvents(catalog.db, before)));
    } catch (error) {
      logger.warn({ err: error }, 'old records could not be removed');
    }
  };
  void keepHouse();
  const house = setInterval(() => void keepHouse(), houseEveryMs).unref();

  return {
    ...useCases,
    recovered: { tasks, objects },
    processes: machines,

    async doctor(caller, options) {
      assertOperator(caller);
      const ofDrives = await engine.doctor(options);
      const ofMemory = await examineMemory(context, options);
      return {
        findings: [...ofDrives.findings, ...ofMemory.findings],
        checkedFiles: ofDrives.checkedFiles + ofMemory.checkedFiles,
      };
    },

    space: () => engine.space(),

    async readiness() {
      const reasons: string[] = [];
      if (runner.closing) reasons.push('The server is shutting down.');
      try {
        await engine.ping();
      } catch (error) {
        reasons.push(error instanceof Error ? error.message : String(error));
      }
      return { ready: reasons.length === 0, reasons };
    },

    async projectIdOf({ kind, id }) {
      const table = { machine: 'machines', drive: 'drives', snapshot: 'snapshots', image: 'images', task: 'tasks' }[
        kind
      ];
      const found = await sql<{ project_id: ProjectId | null }>`
        select project_id from ${sql.table(table)} where id = ${id}`.execute(catalog.db);
      return found.rows[0]?.project_id ?? null;
    },

    async close(graceMs) {
      clearInterval(house);
      compaction.close();
      await runner.close(graceMs);
      machines.close();
      adopted.close();
      await sizes.store();
      sizes.close();
    },
  };
}
