/** Machines: create, list, run, plug, look into. Their snapshots are routes of snapshots. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import type { DriveId, MachineId } from '../../core/ids.ts';
import { machineKinds, type Task } from '../../core/model.ts';
import { machinePowers } from '../../core/states.ts';
import { maxInputBytes } from '../../qemu/serial-input.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions, checkIfMatch, createOptions, ifVersion, setEtag } from '../preconditions.ts';
import { presentMachine, presentPage, presentTask } from '../presenters.ts';
import {
  emptyBody,
  labelFields,
  nameField,
  nameFilterFields,
  orderField,
  pageFields,
  pageRequest,
  strict,
} from '../requests.ts';
import {
  type MachineBody,
  machineRef,
  machineStates,
  machineTaskAnswer,
  noContent,
  oneOf,
  pageOf,
  taskAnswer,
  uuid,
} from '../schemas.ts';
import { followSerialLog, serialHeaders, serialMedia } from '../serial-stream.ts';
import { settle } from '../wait.ts';

const params = Type.Object({ machineId: uuid<MachineId>() });
const slotField = Type.Integer({ minimum: 0, description: 'default: the next free one' });
const fileField = Type.String({ minLength: 1, maxLength: 4096, description: 'a file of the boot directory' });
const bootField = Type.Union([
  strict({ from: Type.Literal('drive') }),
  strict({
    from: Type.Literal('kernel'),
    kernel: fileField,
    initrd: Type.Optional(fileField),
    append: Type.Optional(Type.String({ maxLength: 2048, description: 'kernel arguments' })),
  }),
]);
const cpusField = Type.Integer({ minimum: 1 });
const memoryField = Type.Integer({ minimum: 1, description: 'whole MiB' });
const changeErrors = [
  'not_found',
  'forbidden',
  'machine_not_ready',
  'machine_failed',
  'engine_failed',
  'engine_unavailable',
  'machine_adopted',
  'cancelled',
] as const;

export function machineRoutes(app: App, context: AppContext): void {
  const { machines } = context.service;
  const location = (id: string): string => `/v1/machines/${id}`;

  app.post(
    '/v1/machines',
    {
      schema: {
        ...describe('createMachine', 'machines', 'Create a machine; it is off'),
        body: strict({
          name: nameField,
          kind: Type.Optional(oneOf(machineKinds)),
          cpus: Type.Optional(cpusField),
          memoryBytes: memoryField,
          drives: Type.Optional(
            Type.Array(strict({ driveId: uuid<DriveId>(), slot: Type.Optional(slotField) }), { maxItems: 64 }),
          ),
          boot: Type.Optional(bootField),
          ...labelFields,
        }),
        response: { 201: machineTaskAnswer, 202: machineTaskAnswer },
      },
      config: {
        notes: {
          errors: [
            'not_found',
            'forbidden',
            'invalid_name',
            'invalid_size',
            'invalid_meta',
            'invalid_tag',
            'name_taken',
            'boot_path_refused',
            'boot_file_not_found',
            'drive_attached',
            'drive_exported',
            'drive_not_ready',
            'slot_taken',
            'machine_failed',
          ],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { boot, ...input } = request.body;
      const start =
        boot?.from === 'kernel'
          ? { from: boot.from, kernel: boot.kernel, initrd: boot.initrd ?? null, append: boot.append ?? '' }
          : { from: 'drive' as const };
      const made = await machines.create(caller, { ...input, boot: start }, createOptions(request));
      const task = await settle(context, request, reply, made.task, {
        status: 201,
        location: location(made.machine.id),
      });
      const machine = task === made.task ? made.machine : await machines.get(caller, made.machine.id);
      return { task: presentTask(task), machine: presentMachine(machine) };
    },
  );

  app.get(
    '/v1/machines',
    {
      schema: {
        ...describe('listMachines', 'machines', 'List machines'),
        querystring: strict({
          ...nameFilterFields,
          kind: Type.Optional(Type.Array(oneOf(machineKinds))),
          state: Type.Optional(Type.Array(oneOf(machineStates))),
          power: Type.Optional(Type.Array(oneOf(machinePowers))),
          tag: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          sort: Type.Optional(oneOf(['created', 'name', 'state', 'power', 'number'])),
          order: orderField,
          ...pageFields,
        }),
        response: { 200: pageOf<MachineBody>('Machine') },
      },
      config: { notes: { errors: ['invalid_sort', 'invalid_cursor', 'invalid_name', 'invalid_tag'] } },
    },
    async (request) => {
      const {
        kind,
        state,
        power,
        sort = 'created',
        order = 'asc',
        name,
        nameContains,
        nameLike,
        tag,
        ...page
      } = request.query;
      const found = await machines.list(
        callerOf(request),
        { name, nameContains, nameLike, tag, kinds: kind, states: state, powers: power },
        { by: sort, order },
        pageRequest(page),
      );
      return presentPage(found, presentMachine);
    },
  );

  app.get(
    '/v1/machines/:machineId',
    {
      schema: { ...describe('getMachine', 'machines', 'Get a machine'), params, response: { 200: machineRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      const machine = await machines.get(callerOf(request), request.params.machineId);
      setEtag(reply, machine);
      return presentMachine(machine);
    },
  );

  app.patch(
    '/v1/machines/:machineId',
    {
      schema: {
        ...describe('updateMachine', 'machines', 'Change what a machine is called, or, while it is off, what it has'),
        params,
        body: strict({
          name: Type.Optional(nameField),
          cpus: Type.Optional(cpusField),
          memoryBytes: Type.Optional(memoryField),
          ...labelFields,
        }),
        response: { 200: machineRef },
      },
      config: {
        notes: {
          errors: [
            'not_found',
            'forbidden',
            'invalid_name',
            'invalid_size',
            'invalid_meta',
            'invalid_tag',
            'machine_running',
          ],
          versioned: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { machineId } = request.params;
      const version = await ifVersion(request, () => machines.get(caller, machineId));
      const machine = await machines.update(caller, machineId, { ...request.body, ...version });
      setEtag(reply, machine);
      return presentMachine(machine);
    },
  );

  app.delete(
    '/v1/machines/:machineId',
    {
      schema: {
        ...describe('deleteMachine', 'machines', 'Delete a machine; one that runs is switched off'),
        params,
        querystring: strict({
          drives: Type.Optional(oneOf(['keep', 'delete'], { description: 'default keep' })),
          snapshots: Type.Optional(oneOf(['refuse', 'keep', 'delete'], { description: 'default refuse' })),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: { errors: [...changeErrors, 'machine_has_snapshots'], idempotent: true, versioned: true, waits: true },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { machineId } = request.params;
      await checkIfMatch(request, () => machines.get(caller, machineId));
      const begun = await machines.delete(caller, machineId, { ...request.query, ...changeOptions(request) });
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200 })) };
    },
  );

  app.post(
    '/v1/machines/:machineId/start',
    {
      schema: {
        ...describe('startMachine', 'machines', 'Start a machine'),
        params,
        body: strict({ paused: Type.Optional(Type.Boolean({ description: 'do not let the guest run yet' })) }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [
            ...changeErrors,
            'drive_exported',
            'boot_path_refused',
            'boot_file_not_found',
            'machine_type_missing',
          ],
          idempotent: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const { machineId } = request.params;
      const begun = await machines.start(callerOf(request), machineId, request.body, changeOptions(request));
      return { task: await shown(request, reply, begun) };
    },
  );

  app.post(
    '/v1/machines/:machineId/stop',
    {
      schema: {
        ...describe('stopMachine', 'machines', 'Stop a machine'),
        params,
        body: strict({
          mode: Type.Optional(
            oneOf(['graceful', 'guest', 'power'], {
              description:
                'guest: asked to shut down; power: plug pulled; graceful (default): asked, and pulled after the limit',
            }),
          ),
          timeoutSeconds: Type.Optional(
            Type.Number({ exclusiveMinimum: 0, maximum: 3600, description: 'for the guest; default 60' }),
          ),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: { notes: { errors: [...changeErrors, 'guest_did_not_stop'], idempotent: true, waits: true } },
    },
    async (request, reply) => {
      const { machineId } = request.params;
      const begun = await machines.stop(callerOf(request), machineId, request.body, changeOptions(request));
      return { task: await shown(request, reply, begun) };
    },
  );

  for (const [verb, id, summary] of [
    ['pause', 'pauseMachine', 'Let the guest stand still'],
    ['resume', 'resumeMachine', 'Let a paused guest go on'],
    ['reset', 'resetMachine', 'Start the guest afresh, as the reset button does'],
  ] as const) {
    app.post(
      `/v1/machines/:machineId/${verb}`,
      {
        schema: {
          ...describe(id, 'machines', summary),
          params,
          body: emptyBody,
          response: { 200: taskAnswer, 202: taskAnswer },
        },
        config: { notes: { errors: [...changeErrors, 'machine_off'], idempotent: true, waits: true } },
      },
      async (request, reply) => {
        const { machineId } = request.params;
        const begun = await machines[verb](callerOf(request), machineId, changeOptions(request));
        return { task: await shown(request, reply, begun) };
      },
    );
  }

  app.post(
    '/v1/machines/:machineId/drives',
    {
      schema: {
        ...describe('attachDrive', 'machines', 'Attach a drive, also while the machine runs'),
        params,
        body: strict({ driveId: uuid<DriveId>(), slot: Type.Optional(slotField) }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [...changeErrors, 'drive_attached', 'drive_exported', 'drive_not_ready', 'slot_taken'],
          idempotent: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const { machineId } = request.params;
      const begun = await machines.attach(callerOf(request), machineId, request.body, changeOptions(request));
      return { task: await shown(request, reply, begun) };
    },
  );

  app.delete(
    '/v1/machines/:machineId/drives/:driveId',
    {
      schema: {
        ...describe('detachDrive', 'machines', 'Detach a drive, also while the machine runs'),
        params: Type.Object({ machineId: uuid<MachineId>(), driveId: uuid<DriveId>() }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: { errors: [...changeErrors, 'drive_not_attached', 'drive_busy'], idempotent: true, waits: true },
      },
    },
    async (request, reply) => {
      const { machineId, driveId } = request.params;
      const begun = await machines.detach(callerOf(request), machineId, driveId, changeOptions(request));
      return { task: await shown(request, reply, begun) };
    },
  );

  app.get(
    '/v1/machines/:machineId/serial',
    {
      schema: {
        ...describe('readSerialLog', 'machines', 'What the guest has written to its serial port'),
        params,
        querystring: strict({
          from: Type.Optional(
            Type.Integer({
              description: 'first byte, counted from the first ever written; negative: from the end; default -65536',
            }),
          ),
          follow: Type.Optional(
            Type.Boolean({ description: 'go on with what it writes, over all its runs, until you hang up' }),
          ),
        }),
      },
      config: { notes: { errors: ['not_found', 'machine_adopted'], responseMedia: [serialMedia] } },
    },
    async (request, reply) => {
      const { machineId } = request.params;
      const { from: fromByte = -65_536, follow = false } = request.query;
      if (follow && request.method !== 'HEAD') {
        return followSerialLog(context, request, reply, { machineId, fromByte });
      }
      const range = await machines.serialLog(callerOf(request), machineId, { fromByte });
      reply.headers(serialHeaders(range));
      if (request.method !== 'HEAD') return reply.send(range.stream);
      range.stream.destroy();
      return reply.send();
    },
  );

  app.register(async (scope: App) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', { parseAs: 'buffer', bodyLimit: maxInputBytes }, (request, body, done) => {
      const type = request.headers['content-type'];
      if (type === undefined || /^(application\/octet-stream|text\/plain)\b/.test(type)) done(null, body);
      else done(new CalotypeError('unsupported_media_type', 'Send the input as application/octet-stream.'));
    });
    scope.post(
      '/v1/machines/:machineId/console',
      {
        schema: {
          ...describe('typeOnConsole', 'machines', 'Type on the serial port, up to 64 KiB at once'),
          params,
          response: { 204: noContent },
        },
        config: {
          notes: {
            errors: [
              'not_found',
              'forbidden',
              'machine_off',
              'console_full',
              'machine_adopted',
              'body_too_large',
              'unsupported_media_type',
            ],
            requestMedia: 'application/octet-stream',
          },
        },
      },
      async (request, reply) => {
        const { body } = request;
        const bytes = body instanceof Uint8Array ? body : new Uint8Array();
        await machines.typeOnConsole(callerOf(request), request.params.machineId, bytes);
        return reply.code(204).send(null);
      },
    );
  });

  async function shown(
    request: Parameters<typeof settle>[1],
    reply: Parameters<typeof settle>[2],
    begun: Task,
  ): Promise<ReturnType<typeof presentTask>> {
    return presentTask(await settle(context, request, reply, begun, { status: 200 }));
  }
}
