/** Tasks: watch and steer long work. */
import Type from 'typebox';
import type { DriveId, MachineId, TaskId } from '../../core/ids.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { presentPage, presentTask } from '../presenters.ts';
import { emptyBody, pageFields, pageRequest, strict } from '../requests.ts';
import { oneOf, pageOf, type TaskBody, taskRef, taskStates, uuid } from '../schemas.ts';
import { maxWaitSeconds, waitForTask } from '../wait.ts';

const params = Type.Object({ taskId: uuid<TaskId>() });

export function taskRoutes(app: App, context: AppContext): void {
  const { tasks } = context.service;

  app.get(
    '/v1/tasks',
    {
      schema: {
        ...describe('listTasks', 'tasks', 'List tasks'),
        querystring: strict({
          state: Type.Optional(Type.Array(oneOf(taskStates))),
          objectId: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
          driveId: Type.Optional(uuid<DriveId>()),
          machineId: Type.Optional(uuid<MachineId>()),
          ...pageFields,
        }),
        response: { 200: pageOf<TaskBody>('Task') },
      },
      config: { notes: { errors: ['invalid_cursor'] } },
    },
    async (request) => {
      const { state, objectId, driveId, machineId, ...page } = request.query;
      return presentPage(
        await tasks.list(callerOf(request), { states: state, objectId, driveId, machineId }, pageRequest(page)),
        presentTask,
      );
    },
  );

  app.get(
    '/v1/tasks/:taskId',
    {
      schema: {
        ...describe('getTask', 'tasks', 'Get a task, at once or when it has ended'),
        params,
        querystring: strict({
          wait: Type.Optional(
            Type.Integer({ minimum: 0, maximum: maxWaitSeconds, description: 'seconds to wait for its end' }),
          ),
        }),
        response: { 200: taskRef },
      },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request) => presentTask(await waitForTask(context, request, request.params.taskId, request.query.wait ?? 0)),
  );

  app.patch(
    '/v1/tasks/:taskId',
    {
      schema: {
        ...describe('updateTask', 'tasks', 'Limit the speed of a task'),
        params,
        body: strict({
          speedLimitBytesPerSecond: Type.Integer({
            minimum: 0,
            maximum: Number.MAX_SAFE_INTEGER,
            description: '0: no limit',
          }),
        }),
        response: { 200: taskRef },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'task_not_pausable'] } },
    },
    async (request) =>
      presentTask(
        await tasks.setSpeedLimit(callerOf(request), request.params.taskId, request.body.speedLimitBytesPerSecond),
      ),
  );

  const steer = (
    verb: 'cancel' | 'pause' | 'resume',
    summary: string,
    error: 'task_not_cancellable' | 'task_not_pausable',
  ): void => {
    app.post(
      `/v1/tasks/:taskId/${verb}`,
      {
        schema: { ...describe(`${verb}Task`, 'tasks', summary), params, body: emptyBody, response: { 200: taskRef } },
        config: { notes: { errors: ['not_found', 'forbidden', error] } },
      },
      async (request) => presentTask(await tasks[verb](callerOf(request), request.params.taskId)),
    );
  };
  steer('cancel', 'Cancel a task and undo what it did', 'task_not_cancellable');
  steer('pause', 'Pause a task', 'task_not_pausable');
  steer('resume', 'Resume a paused task', 'task_not_pausable');
}
