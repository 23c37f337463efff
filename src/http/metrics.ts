/**
 * Metrics in Prometheus' format. prom-client is loaded at the first scrape, not at start-up; what happens before is kept aside.
 * Gauges of the catalog are read when scraped, at most every ten seconds.
 */
import type { Histogram, Registry } from 'prom-client';
import type { MachinePower } from '../core/states.ts';
import type { Observer } from '../service/observer.ts';

export type CountedKind = 'machines' | 'drives' | 'snapshots' | 'images' | 'tasks';

/** Counts that only the catalog and the engine know. */
export interface Inventory {
  /** Objects by kind and state. */
  counts(): Promise<readonly { kind: CountedKind; state: string; count: number }[]>;
  /** Machines by what they do; every power is there. */
  powers(): Promise<readonly { power: MachinePower; count: number }[]>;
  /** What the memory of snapshots takes on the disk. */
  memoryBytes(): Promise<number>;
  space(): Promise<{ freeBytes: number; totalBytes: number; reserveBytes: number; low: boolean }>;
}

interface Observation {
  readonly method: string;
  readonly route: string;
  readonly status: number;
  readonly seconds: number;
}

const maxKept = 50_000;
const inventoryAgeMs = 10_000;

/** Observations until their histogram is there. */
class Seconds {
  #kept: number[] = [];
  #histogram: Histogram | undefined;

  add(seconds: number): void {
    if (this.#histogram !== undefined) this.#histogram.observe(seconds);
    else if (this.#kept.length < maxKept) this.#kept.push(seconds);
  }

  handOver(histogram: Histogram): void {
    this.#histogram = histogram;
    for (const seconds of this.#kept) histogram.observe(seconds);
    this.#kept = [];
  }
}

export class Metrics {
  readonly #version: string;
  readonly #inventory: Inventory;
  #streamCount: () => number = () => 0;
  #kept: Observation[] = [];
  #loaded: Promise<Registry> | undefined;
  #histogram: Histogram | undefined;
  #inventoryAt = Number.NEGATIVE_INFINITY;

  constructor(options: { version: string; inventory: Inventory }) {
    this.#version = options.version;
    this.#inventory = options.inventory;
  }

  readonly #finished = new Map<string, { kind: string; state: string; count: number; seconds: number }>();
  #active = 0;
  #snapshots = 0;
  #reclaimed = 0;
  #deaths = 0;
  readonly #pauses = new Seconds();
  readonly #freezes = new Seconds();

  /** For the service. */
  readonly observer: Observer = {
    taskFinished: (kind, state, seconds) => {
      const key = `${kind} ${state}`;
      const known = this.#finished.get(key) ?? { kind, state, count: 0, seconds: 0 };
      known.count++;
      known.seconds += seconds;
      this.#finished.set(key, known);
    },
    activeTasks: (count) => {
      this.#active = count;
    },
    snapshotTaken: () => {
      this.#snapshots++;
    },
    bytesReclaimed: (bytes) => {
      this.#reclaimed += bytes;
    },
    guestPaused: (seconds) => this.#pauses.add(seconds),
    guestFrozen: (seconds) => this.#freezes.add(seconds),
    machineDied: () => {
      this.#deaths++;
    },
  };

  /** Tells how many clients follow events. */
  watchStreams(count: () => number): void {
    this.#streamCount = count;
  }

  /** One answered request. `route` is its pattern, never its address. */
  observe(method: string, route: string, status: number, seconds: number): void {
    if (this.#histogram !== undefined) this.#histogram.observe({ method, route, status }, seconds);
    else if (this.#kept.length < maxKept) this.#kept.push({ method, route, status, seconds });
  }

  async collect(): Promise<{ text: string; contentType: string }> {
    this.#loaded ??= this.#load();
    const registry = await this.#loaded;
    return { text: await registry.metrics(), contentType: registry.contentType };
  }

  async #load(): Promise<Registry> {
    const {
      collectDefaultMetrics,
      Counter,
      Gauge,
      Histogram: HistogramClass,
      Registry: RegistryClass,
    } = await import('prom-client');
    const registry = new RegistryClass();
    const registers = [registry];
    // Process, memory, garbage collection and event-loop lag.
    collectDefaultMetrics({ register: registry });
    const histogram = new HistogramClass({
      name: 'calotype_http_request_seconds',
      help: 'Time to answer HTTP requests, by route',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60],
      registers,
    });
    const build = new Gauge({
      name: 'calotype_build_info',
      help: 'Version',
      labelNames: ['version', 'node'],
      registers,
    });
    build.set({ version: this.#version, node: process.versions.node }, 1);
    const objects = new Gauge({
      name: 'calotype_objects',
      help: 'Machines, drives, snapshots, images and tasks by state',
      labelNames: ['kind', 'state'],
      registers,
    });
    const bytes = new Gauge({
      name: 'calotype_space_bytes',
      help: 'Space where drives live',
      labelNames: ['kind'],
      registers,
    });
    const low = new Gauge({ name: 'calotype_space_low', help: '1 while creates are refused', registers });
    const machines = new Gauge({
      name: 'calotype_machines',
      help: 'Machines by what they do',
      labelNames: ['power'],
      registers,
    });
    const memory = new Gauge({
      name: 'calotype_memory_stored_bytes',
      help: 'Space that the memory of snapshots takes',
      registers,
    });
    const deaths = new Counter({
      name: 'calotype_machine_deaths_total',
      help: 'QEMU processes that ended without being told to',
      registers,
    });
    const buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30];
    const pauses = new HistogramClass({
      name: 'calotype_guest_pause_seconds',
      help: 'How long running guests stood still for a snapshot of their memory',
      buckets,
      registers,
    });
    const freezes = new HistogramClass({
      name: 'calotype_guest_freeze_seconds',
      help: 'How long file systems of guests were frozen for a snapshot',
      buckets,
      registers,
    });
    const streams = new Gauge({ name: 'calotype_event_streams', help: 'Clients that follow events', registers });
    const active = new Gauge({ name: 'calotype_tasks_active', help: 'Tasks that have not ended', registers });
    const snapshots = new Counter({
      name: 'calotype_snapshots_taken_total',
      help: 'Snapshots since the start',
      registers,
    });
    const reclaimed = new Counter({
      name: 'calotype_reclaimed_bytes_total',
      help: 'Space given back by deletes',
      registers,
    });
    const labelNames = ['kind', 'state'] as const;
    const ended = new Counter({ name: 'calotype_tasks_finished_total', help: 'Ended tasks', labelNames, registers });
    const spent = new Counter({
      name: 'calotype_task_seconds_total',
      help: 'Time that ended tasks ran',
      labelNames,
      registers,
    });
    /** Our own counts, as they stand. */
    const takeOver = (): void => {
      streams.set(this.#streamCount());
      active.set(this.#active);
      for (const counter of [snapshots, reclaimed, deaths, ended, spent]) counter.reset();
      snapshots.inc(this.#snapshots);
      reclaimed.inc(this.#reclaimed);
      deaths.inc(this.#deaths);
      for (const { kind, state, count, seconds } of this.#finished.values()) {
        ended.inc({ kind, state }, count);
        spent.inc({ kind, state }, seconds);
      }
    };
    const refresh = async (): Promise<void> => {
      if (performance.now() - this.#inventoryAt < inventoryAgeMs) return;
      this.#inventoryAt = performance.now();
      const [counts, powers, memoryBytes, space] = await Promise.all([
        this.#inventory.counts(),
        this.#inventory.powers(),
        this.#inventory.memoryBytes(),
        this.#inventory.space(),
      ]);
      for (const { power, count } of powers) machines.set({ power }, count);
      memory.set(memoryBytes);
      objects.reset();
      for (const { kind, state, count } of counts) objects.set({ kind, state }, count);
      bytes.set({ kind: 'free' }, space.freeBytes);
      bytes.set({ kind: 'total' }, space.totalBytes);
      bytes.set({ kind: 'reserve' }, space.reserveBytes);
      low.set(space.low ? 1 : 0);
    };
    // Metrics are collected in parallel, so one that comes first would be too early for the rest: refreshed before.
    const metrics = registry.metrics.bind(registry);
    registry.metrics = async () => {
      takeOver();
      await refresh();
      return metrics();
    };
    for (const { method, route, status, seconds } of this.#kept) histogram.observe({ method, route, status }, seconds);
    this.#kept = [];
    this.#histogram = histogram;
    this.#pauses.handOver(pauses);
    this.#freezes.handOver(freezes);
    return registry;
  }
}
