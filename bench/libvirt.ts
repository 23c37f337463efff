/** A libvirt guest with one qcow2 disk, for the comparison with virsh; null where libvirt is not installed. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
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

export async function startLibvirtGuest(): Promise<LibvirtGuest | null> {
  if (spawnSync('virsh', ['--version']).status !== 0 || spawnSync('libvirtd', ['--version']).status !== 0) return null;
  const directory = temporaryDirectory('virt');
  const disk = join(directory, 'disk.qcow2');
  execFileSync('chmod', ['755', directory]);
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', disk, '1G']);
  execFileSync('chmod', ['666', disk]);
  const answers = spawnSync('virsh', [...connection, 'list'], { timeout }).status === 0;
  const daemons = answers ? [] : ['virtlogd', 'libvirtd'].map((program) => spawn(program, [], { stdio: 'ignore' }));
  for (let i = 0; i < 40 && spawnSync('virsh', [...connection, 'list'], { timeout }).status !== 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  const name = `calotype-bench-${process.pid}`;
  const file = join(directory, 'guest.xml');
  writeFileSync(
    file,
    `<domain type='qemu'><name>${name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
     <os><type arch='x86_64'>hvm</type></os><seclabel type='none'/>
     <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='${disk}'/>
     <target dev='vda' bus='virtio'/></disk></devices></domain>`,
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
