/** What front doors keep with drives beside what the model knows of them; goes with the drive. */
import { putTraits, type Traits, traitsOf } from '../catalog/traits.ts';
import type { DriveId } from '../core/ids.ts';
import { driveRow } from './access.ts';
import { Answers } from './answers.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';

const rememberedTraits = 2000;

export interface TraitUseCases {
  /** For drives that the caller was shown; those without are left out. */
  of(ids: readonly DriveId[]): Promise<ReadonlyMap<string, Traits>>;
  /** Adds or replaces those that are named. */
  set(caller: Caller, id: DriveId, traits: Traits): Promise<void>;
}

export function traitUseCases({ catalog }: Context): TraitUseCases {
  const answers = new Answers<ReadonlyMap<string, Traits>>(catalog, rememberedTraits);
  return {
    async of(ids) {
      const [only] = ids;
      if (only === undefined || ids.length > 1) return traitsOf(catalog.db, ids);
      return answers.get(only, () => traitsOf(catalog.db, ids));
    },

    async set(caller, id, traits) {
      await catalog.write(async (tx) => {
        await driveRow(tx, caller, 'write', id);
        await putTraits(tx, id, traits);
      });
    },
  };
}
