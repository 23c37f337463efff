/** `calotype doctor`: compares catalog, files and QEMU graphs, both ways. */
import type { Command } from 'commander';
import type { DoctorReport, Finding } from '../api-types.ts';
import type { Context } from '../context.ts';
import { exitCodes } from '../exit-codes.ts';
import { harmless, paint } from '../io.ts';

export function register(noun: Command, ctx: Context): void {
  noun
    .option('--repair', 'repair what can be explained; nothing else is deleted')
    .action(async (options: { repair?: boolean }) => {
      const body = options.repair === true ? { repair: true } : {};
      const report = (await ctx.client.request<DoctorReport>('POST', '/doctor', { body })).body;
      if (ctx.json) await ctx.printJson(report);
      else await ctx.print(describe(ctx, report));
      if (report.findings.some((finding) => finding.severity === 'error' && finding.repaired !== true))
        ctx.exitCode = exitCodes.failed;
    });
}

const formats = { info: 'dim', warning: 'yellow', error: 'red' } as const;

function describe(ctx: Context, report: DoctorReport): string {
  const lines = report.findings.map((finding) => {
    const severity = paint(ctx.io, formats[finding.severity], finding.severity.padEnd(7));
    return `${severity}  ${harmless(finding.subject)}: ${harmless(finding.explanation)} (${finding.code}${outcome(finding)})`;
  });
  const repairable = report.findings.filter((finding) => finding.repairable && finding.repaired !== true).length;
  const summary = report.findings.length === 0 ? 'no difference' : `${report.findings.length} findings`;
  lines.push(`${report.checkedFiles} files checked, ${summary}.`);
  if (repairable > 0) lines.push(`${repairable} can be repaired: calotype doctor --repair`);
  return `${lines.join('\n')}\n`;
}

function outcome(finding: Finding): string {
  if (finding.repaired === true) return ', repaired';
  return finding.repairable ? ', repairable' : '';
}
