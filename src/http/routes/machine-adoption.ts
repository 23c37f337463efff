/** Machines that somebody else runs: adopted by their monitor, and let go of. */
import Type from 'typebox';
import type { DriveId, MachineId } from '../../core/ids.ts';
import { machineKinds } from '../../core/model.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { changeOptions, createOptions } from '../preconditions.ts';
import { presentMachine, presentTask } from '../presenters.ts';
import { labelFields, nameField, strict } from '../requests.ts';
import { machineTaskAnswer, oneOf, taskAnswer, uuid } from '../schemas.ts';
import { settle } from '../wait.ts';

const params = Type.Object({ machineId: uuid<MachineId>() });
const socketField = (description: string) => Type.String({ minLength: 1, maxLength: 107, description });

export function machineAdoptionRoutes(app: App, context: AppContext): void {
  const { machines } = context.service;

  app.post(
    '/v1/machines/adopt',
    {
      schema: {
        ...describe('adoptMachine', 'machines', 'Take over the disks of a QEMU process that somebody else runs'),
        body: strict({
          name: nameField,
          kind: Type.Optional(oneOf(machineKinds)),
          qmpSocket: socketField('absolute path of a QMP monitor that nobody else uses'),
          agentSocket: Type.Optional(socketField("absolute path of the guest agent's socket")),
          ...labelFields,
        }),
        response: { 201: machineTaskAnswer, 202: machineTaskAnswer },
      },
      config: {
        notes: {
          errors: [
            'forbidden',
            'invalid_name',
            'invalid_meta',
            'invalid_tag',
            'name_taken',
            'adoption_refused',
            'machine_changed',
          ],
          idempotent: true,
          refusesExisting: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const made = await machines.adopt(caller, request.body, createOptions(request));
      const { id } = made.machine;
      const task = await settle(context, request, reply, made.task, { status: 201, location: `/v1/machines/${id}` });
      const machine = task === made.task ? made.machine : await machines.get(caller, id);
      return { task: presentTask(task), machine: presentMachine(machine) };
    },
  );

  app.get(
    '/v1/machines/:machineId/files',
    {
      schema: {
        ...describe('listMachineFiles', 'machines', 'The files that the drives of an adopted machine are in'),
        params,
        response: {
          200: strict({
            drives: Type.Array(
              strict({
                driveId: uuid<DriveId>(),
                files: Type.Array(strict({ path: Type.String(), format: oneOf(['qcow2', 'raw']) }), {
                  description: 'top first: the first is what the machine has to be started with',
                }),
              }),
            ),
          }),
        },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'not_supported'] } },
    },
    async (request) => {
      const drives = await machines.files(callerOf(request), request.params.machineId);
      return { drives: drives.map(({ driveId, files }) => ({ driveId, files: [...files] })) };
    },
  );

  app.post(
    '/v1/machines/:machineId/disown',
    {
      schema: {
        ...describe('disownMachine', 'machines', 'Forget an adopted machine and its drives; it runs on'),
        params,
        body: strict({
          snapshots: Type.Optional(
            oneOf(['refuse', 'forget'], {
              description: 'what becomes of its snapshots; forget: their data stays in the files of the machine',
            }),
          ),
        }),
        response: { 200: taskAnswer, 202: taskAnswer },
      },
      config: {
        notes: {
          errors: [
            'not_found',
            'forbidden',
            'machine_not_ready',
            'machine_has_snapshots',
            'snapshot_in_use',
            'drive_has_clones',
            'not_supported',
          ],
          idempotent: true,
          waits: true,
        },
      },
    },
    async (request, reply) => {
      const { machineId } = request.params;
      const begun = await machines.disown(callerOf(request), machineId, request.body, changeOptions(request));
      return { task: presentTask(await settle(context, request, reply, begun, { status: 200 })) };
    },
  );
}
