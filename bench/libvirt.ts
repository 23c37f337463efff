/** A libvirt guest with qcow2 disks, for the comparison with virsh; null where libvirt is not installed. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryDirectory } from './support.ts';

export interface LibvirtGuest {
  name: string;
  stop(): void;
}

const connection = ['-q', '-c', 'qemu:///system'];
/** A daemon that does not answer must not hold up the benchmark. Without a system bus, a guest takes a minute to start. */
const timeout = 15_000;
const startTimeout = 150_000;

export interface LibvirtShape {
  /** Default 1. */
  readonly drives?: number;
  /** Default 64. */
  readonly memoryMiB?: number;
  /** Files; nothing to boot unless given. */
  readonly boot?: { readonly kernel: string; readonly initrd: string; readonly append: string };
}

export async function startLibvirtGuest(shape: LibvirtShape = {}): Promise<LibvirtGuest | null> {
  if (spawnSync('virsh', ['--version']).status !== 0 || spawnSync('libvirtd', ['--version']).status !== 0) return null;
  const directory = temporaryDirectory('virt');
  const disks = Array.from({ length: shape.drives ?? 1 }, (_, index) => join(directory, `disk${index}.qcow2`));
  execFileSync('chmod', ['755', directory]);
  for (const disk of disks) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', disk, '1G']);
    execFileSync('chmod', ['666', disk]);
  }
  const boot = shape.boot && readable(shape.boot, directory);
  const answers = spawnSync('virsh', [...connection, 'list'], { timeout }).status === 0;
  const daemons = answers ? [] : ['virtlogd', 'libvirtd'].map((program) => spawn(program, [], { stdio: 'ignore' }));
  for (let i = 0; i < 40 && spawnSync('virsh', [...connection, 'list'], { timeout }).status !== 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  const name = `calotype-bench-${process.pid}`;
  const file = join(directory, 'guest.xml');
  writeFileSync(
    file,
    `<domain type='qemu'><name>${name}</name><memory unit='MiB'>${shape.memoryMiB ?? 64}</memory><vcpu>1</vcpu>
     <os><type arch='x86_64'>hvm</type>${bootElements(boot)}</os><seclabel type='none'/>
     <devices>${disks.map(diskElement).join('')}</devices></domain>`,
  );
  const started = spawnSync('virsh', [...connection, 'create', file], { encoding: 'utf8', timeout: startTimeout });
  if (started.status !== 0) {
    process.stderr.write(`libvirt guest did not start: ${started.stderr}\n`);
    for (const daemon of daemons) daemon.kill();
    return null;
  }
  return {
    name,
    stop: () => {
      spawnSync('virsh', [...connection, 'destroy', name]);
      for (const daemon of daemons) daemon.kill();
    },
  };
}

/** Where libvirt's own user may read them. */
function readable(boot: NonNullable<LibvirtShape['boot']>, directory: string): LibvirtShape['boot'] {
  const files = { kernel: join(directory, 'vmlinuz'), initrd: join(directory, 'initrd.img') };
  for (const name of ['kernel', 'initrd'] as const) {
    copyFileSync(boot[name], files[name]);
    chmodSync(files[name], 0o644);
  }
  return { ...boot, ...files };
}

function bootElements(boot: LibvirtShape['boot']): string {
  if (boot === undefined) return '';
  return `<kernel>${boot.kernel}</kernel><initrd>${boot.initrd}</initrd><cmdline>${boot.append}</cmdline>`;
}

function diskElement(path: string, index: number): string {
  const name = `vd${String.fromCharCode('a'.charCodeAt(0) + index)}`;
  return `<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='${path}'/>
     <target dev='${name}' bus='virtio'/></disk>`;
}
