/** The nouns of the CLI; each is loaded only when it is named, for the sake of the start-up time. */
import type { Register } from './commands/common.ts';

interface Noun {
  readonly name: string;
  readonly description: string;
  readonly load: () => Promise<{ readonly register: Register }>;
}

export const nouns: readonly Noun[] = [
  { name: 'machine', description: 'virtual machines', load: () => import('./commands/machine.ts') },
  { name: 'drive', description: 'block volumes', load: () => import('./commands/drive.ts') },
  {
    name: 'snapshot',
    description: 'points in time of machines and drives',
    load: () => import('./commands/snapshot.ts'),
  },
  { name: 'image', description: 'templates for machines and drives', load: () => import('./commands/image.ts') },
  { name: 'export', description: 'drives and snapshots served over NBD', load: () => import('./commands/export.ts') },
  { name: 'task', description: 'the work behind every change', load: () => import('./commands/task.ts') },
  { name: 'event', description: 'who did what when', load: () => import('./commands/event.ts') },
  { name: 'demo', description: 'machines to try things out with', load: () => import('./commands/demo.ts') },
  { name: 'space', description: 'what is free where drives live', load: () => import('./commands/space.ts') },
  { name: 'doctor', description: 'compare catalog, files and processes', load: () => import('./commands/doctor.ts') },
  { name: 'project', description: 'tenants', load: () => import('./commands/project.ts') },
  { name: 'member', description: 'who belongs to a project', load: () => import('./commands/member.ts') },
  { name: 'user', description: 'accounts of the server', load: () => import('./commands/user.ts') },
  { name: 'token', description: 'API keys', load: () => import('./commands/token.ts') },
  { name: 'grant', description: 'access of a user to one object', load: () => import('./commands/grant.ts') },
  { name: 'server', description: 'what the server says of itself', load: () => import('./commands/server.ts') },
  { name: 'tls', description: 'certificates for trying out', load: () => import('./commands/tls.ts') },
  {
    name: 'completion',
    description: 'scripts that complete commands in a shell',
    load: () => import('./commands/completion.ts'),
  },
  { name: 'version', description: 'of this program and of the server', load: () => import('./commands/version.ts') },
];
