/** The dialects that there are. */
import type { Dialect } from './dialect.ts';
import { manageiq } from './manageiq/routes.ts';

export const dialects: readonly Dialect[] = [manageiq];
