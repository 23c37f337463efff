/** The changes that a campaign asks for, by the names it gives to things. Plain data: a record of them can be replayed. */
export type Plan =
  | { readonly kind: 'create'; readonly drive: string; readonly blocks: number }
  | { readonly kind: 'snapshot'; readonly snapshot: string; readonly drives: readonly string[] }
  | {
      readonly kind: 'revert';
      readonly snapshot: string;
      readonly drives: readonly string[];
      /** All drives of the snapshot in one step, or its only named one by the drive. */
      readonly whole: boolean;
      readonly safety: string | null;
    }
  | {
      readonly kind: 'clone';
      readonly snapshot: string;
      readonly part: string;
      readonly drive: string;
      readonly blocks: number;
    }
  | { readonly kind: 'delete-snapshot'; readonly snapshot: string }
  | { readonly kind: 'delete-part'; readonly snapshot: string; readonly part: string }
  | { readonly kind: 'delete-drive'; readonly drive: string; readonly snapshots: 'keep' | 'delete' }
  | { readonly kind: 'resize'; readonly drive: string; readonly blocks: number }
  | { readonly kind: 'flatten'; readonly drive: string }
  | { readonly kind: 'export'; readonly drive: string }
  | { readonly kind: 'unexport'; readonly drive: string };

export type PlanKind = Plan['kind'];

/** The drives that a plan changes or reads the line of. */
export function drivesOf(plan: Plan): readonly string[] {
  switch (plan.kind) {
    case 'snapshot':
    case 'revert':
      return plan.drives;
    case 'delete-snapshot':
    case 'delete-part':
      return [];
    default:
      return [plan.drive];
  }
}
