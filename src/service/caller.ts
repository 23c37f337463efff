/** Who is asking: resolved once per request by `authenticate`, then handed to every use case. */
import type { ProjectId, UserId } from '../core/ids.ts';

/** operator: the whole server; admin, member: everything in the project; guest: only what was granted. */
export type CallerRole = 'operator' | 'admin' | 'member' | 'guest';

export interface Caller {
  readonly userId: UserId;
  readonly userName: string;
  readonly projectId: ProjectId;
  readonly projectName: string;
  readonly role: CallerRole;
  /** The front door: `native`, `cli`, `console` or a dialect's name; kept with every event. */
  readonly via: string;
  /** What the front door calls the work that it asks for; kept with the tasks. */
  readonly taskTitle?: string;
}
