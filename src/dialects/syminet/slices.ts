/** Slices, and their automatic backups, of which there are none as long as nothing takes them. */
import { CalotypeError } from '../../core/errors.ts';
import type { Machine } from '../../core/model.ts';
import { assertWritable, findSlice, findSliceOrDeparted, missing, ownerNumberOf, type Scope } from './find.ts';
import { type Paging, pageSize, readOsName } from './parse.ts';
import { type PageAnswer, presentDepartedSlice, presentPage, presentSlice } from './present.ts';

export async function listSlices(scope: Scope, paging: Paging): Promise<PageAnswer<ReturnType<typeof presentSlice>>> {
  const { query: value, offset } = paging;
  const { items, total } = await scope.service.queries.list(scope.caller, 'machine', {
    ...(value === undefined ? {} : { where: { field: 'name', op: 'contains', value } }),
    offset,
    limit: pageSize,
    withTotal: true,
  });
  return presentPage(await presentSlices(scope, items), total ?? items.length, paging);
}

async function presentSlices(scope: Scope, machines: readonly Machine[]) {
  const { service, caller } = scope;
  const ids = machines.map(({ id }) => id);
  const access = await service.sharing.accessToShown(caller, 'machine', ids);
  const tasks = service.tasks.underWay(caller, ids);
  const ownerNumber = await ownerNumberOf(scope);
  return machines.map((machine) =>
    presentSlice(machine, { perms: access.get(machine.id) ?? null, ownerNumber, task: tasks.get(machine.id)?.[0] }),
  );
}

/** @throws not_found */
export async function getSlice(scope: Scope, asked: string) {
  const found = await findSliceOrDeparted(scope, asked);
  if ('departed' in found) return presentDepartedSlice(found.departed, await ownerNumberOf(scope));
  const [slice] = await presentSlices(scope, [found.there]);
  return slice;
}

/** No system is offered, see `dists`. @throws not_found, forbidden, invalid_request */
export async function rebuildSlice(scope: Scope, asked: string, body: Buffer): Promise<never> {
  const { id } = await findSlice(scope, asked);
  await assertWritable(scope, 'machine', id);
  const name = readOsName(body);
  throw new CalotypeError('invalid_request', `There is no os_name ${name} to rebuild from here.`, { field: 'os_name' });
}

/** @throws not_found */
export async function listBackups(scope: Scope, slice: string) {
  await findSliceOrDeparted(scope, slice);
  return { data: [] };
}

/** @throws not_found, forbidden, not_supported */
export async function switchBackups(scope: Scope, slice: string): Promise<never> {
  const { id } = await findSlice(scope, slice);
  await assertWritable(scope, 'machine', id);
  throw new CalotypeError('not_supported', 'This server takes no automatic backups; take snapshots instead.');
}

/** @throws not_found, forbidden */
export async function restoreBackup(scope: Scope, slice: string, backup: string): Promise<never> {
  const { id } = await findSlice(scope, slice);
  await assertWritable(scope, 'machine', id);
  throw missing('backup', backup);
}
