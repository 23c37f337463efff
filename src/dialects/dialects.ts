/** The dialects that there are. */
import type { Dialect } from './dialect.ts';
import { syminet } from './syminet/routes.ts';

export const dialects: readonly Dialect[] = [syminet];
