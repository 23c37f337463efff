/** The dialects that there are. */
import { cloudmc } from './cloudmc/routes.ts';
import type { Dialect } from './dialect.ts';

export const dialects: readonly Dialect[] = [cloudmc];
