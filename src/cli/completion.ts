/**
 * Completion scripts, generated from the command tree. Each holds the tree as data: for every command its words and what
 * its arguments are. Names of objects are asked of `calotype completion names KIND`.
 */
import type { Command, Option } from 'commander';

/** What an argument or the value of an option is: an object of a kind, a file, one of some words, or anything. */
export type ValueKind = `object:${string}` | 'file' | 'directory' | `words:${string}` | 'any';

export interface FlagShape {
  readonly names: readonly string[];
  /** Null for a flag without a value. */
  readonly value: ValueKind | null;
  readonly description: string;
}

export interface CommandShape {
  /** Such as `drive create`; empty for the root. */
  readonly path: string;
  readonly description: string;
  readonly subcommands: readonly CommandShape[];
  readonly flags: readonly FlagShape[];
  readonly args: readonly ValueKind[];
  /** The last argument may be repeated. */
  readonly isVariadic: boolean;
}

const objectKinds = new Set([
  'machine',
  'drive',
  'snapshot',
  'image',
  'task',
  'export',
  'project',
  'user',
  'token',
  'grant',
]);

export function describeTree(command: Command, path = ''): CommandShape {
  const subcommands = command
    .createHelp()
    .visibleCommands(command)
    .filter((child) => child.name() !== 'help');
  const options = command.createHelp().visibleOptions(command);
  return {
    path,
    description: command.description(),
    subcommands: subcommands.map((child) =>
      describeTree(child, path === '' ? child.name() : `${path} ${child.name()}`),
    ),
    flags: options.map((option) => ({
      names: [option.short, option.long].filter((name) => name !== undefined && name !== null),
      value: valueOfOption(option),
      description: option.description,
    })),
    args: command.registeredArguments.map((argument) => kindOf(argument.name(), argument.argChoices)),
    isVariadic: command.registeredArguments.at(-1)?.variadic ?? false,
  };
}

function valueOfOption(option: Option): ValueKind | null {
  const name = /[<[]([^>\].]+)/.exec(option.flags)?.[1];
  return name === undefined ? null : kindOf(name, option.argChoices);
}

function kindOf(name: string, choices: readonly string[] | undefined): ValueKind {
  if (choices !== undefined) return `words:${choices.join(' ')}`;
  if (objectKinds.has(name)) return `object:${name}`;
  if (name === 'file') return 'file';
  return name === 'dir' ? 'directory' : 'any';
}

/** All commands, parents first. */
export function allCommands(root: CommandShape): readonly CommandShape[] {
  return [root, ...root.subcommands.flatMap(allCommands)];
}

const wordsOf = (shape: CommandShape): string =>
  shape.subcommands.map((child) => child.path.split(' ').at(-1) ?? '').join(' ');
const flagsOf = (shape: CommandShape): string => shape.flags.flatMap((flag) => flag.names).join(' ');

/** `case` branches: what the shell needs of each command. */
function shellBranches(
  root: CommandShape,
  indent: string,
): { words: string; flags: string; args: string; values: string } {
  const lines = { words: '', flags: '', args: '', values: '' };
  for (const shape of allCommands(root)) {
    if (shape.subcommands.length > 0) lines.words += `${indent}'${shape.path}') words='${wordsOf(shape)}' ;;\n`;
    if (shape !== root) lines.flags += `${indent}'${shape.path}') flags='${flagsOf(shape)}' ;;\n`;
    shape.args.forEach((kind, index) => {
      const isLast = index === shape.args.length - 1;
      const position = isLast && shape.isVariadic ? `${index}*` : String(index);
      const pattern = isLast && shape.isVariadic ? `'${shape.path}:'*` : `'${shape.path}:${position}'`;
      if (kind !== 'any') lines.args += `${indent}${pattern}) kind='${kind}' ;;\n`;
    });
    for (const flag of shape.flags) {
      if (flag.value === null) continue;
      const patterns = flag.names.map((name) => `'${shape.path}:${name}'`).join('|');
      lines.values += `${indent}${patterns}) kind='${flag.value}' ;;\n`;
    }
  }
  return lines;
}

/** The part that bash and zsh share: finds the command, the position, and what is wanted there. Uses `words_` and `cword_`. */
function shellCore(root: CommandShape): string {
  const branches = shellBranches(root, '      ');
  const globals = root.flags.filter((flag) => flag.value !== null).flatMap((flag) => flag.names);
  const connecting = globals.filter((name) => ['--url', '--token', '--data', '--project', '--cacert'].includes(name));
  return `# Sets: command, position (of the argument), kind (of the value wanted here), words, flags, connection (an array).
_calotype_flag_value() { # COMMAND FLAG: the kind of the value that a flag takes, nothing for one without
  local kind=''
  case "$1:$2" in
${branches.values.replace(/^ {2}/gm, '')}  esac
  if [ -z "$kind" ]; then
    case ":$2" in
${root.flags
  .filter((flag) => flag.value !== null)
  .map((flag) => `      ${flag.names.map((name) => `':${name}'`).join('|')}) kind='${flag.value}' ;;\n`)
  .join('')}    esac
  fi
  printf '%s' "$kind"
}
_calotype_words() { # COMMAND: its subcommands
  local words=''
  case "$1" in
${branches.words}  esac
  printf '%s' "$words"
}
_calotype_flags() { # COMMAND: its flags and the global ones
  local flags=''
  case "$1" in
${branches.flags}  esac
  printf '%s' "$flags ${flagsOf(root)}"
}
_calotype_argument() { # COMMAND POSITION: the kind of an argument
  local kind='any'
  case "$1:$2" in
${branches.args}  esac
  printf '%s' "$kind"
}
_calotype_connection_flags=' ${connecting.join(' ')} '
`;
}

const bashTail = `_calotype() {
  local IFS=$' \\t\\n' cur prev word command='' position=0 kind='' i expect='' reply
  local -a connection=()
  cur="\${COMP_WORDS[COMP_CWORD]}"
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    if [ -n "$expect" ]; then
      case "$_calotype_connection_flags" in *" $expect "*) connection+=("$expect" "$word") ;; esac
      expect=''
      continue
    fi
    case "$word" in
      -*)
        [ -n "$(_calotype_flag_value "$command" "$word")" ] && expect="$word"
        continue
        ;;
    esac
    case " $(_calotype_words "$command") " in
      *" $word "*) command="\${command:+$command }$word" ;;
      *) position=$((position + 1)) ;;
    esac
  done
  if [ -n "$expect" ]; then
    kind="$(_calotype_flag_value "$command" "$expect")"
  else
    case "$cur" in
      -*)
        COMPREPLY=($(compgen -W "$(_calotype_flags "$command")" -- "$cur"))
        return
        ;;
    esac
    reply="$(_calotype_words "$command")"
    if [ -n "$reply" ]; then
      COMPREPLY=($(compgen -W "$reply" -- "$cur"))
      return
    fi
    kind="$(_calotype_argument "$command" "$position")"
  fi
  COMPREPLY=()
  case "$kind" in
    words:*) COMPREPLY=($(compgen -W "\${kind#words:}" -- "$cur")) ;;
    file) compopt -o filenames 2>/dev/null; local IFS=$'\\n'; COMPREPLY=($(compgen -f -- "$cur")) ;;
    directory) compopt -o filenames 2>/dev/null; local IFS=$'\\n'; COMPREPLY=($(compgen -d -- "$cur")) ;;
    object:*)
      while IFS= read -r word; do
        case "$word" in "$cur"*) COMPREPLY+=("$(printf '%q' "$word")") ;; esac
      done < <("\${COMP_WORDS[0]}" "\${connection[@]}" completion names "\${kind#object:}" 2>/dev/null)
      ;;
  esac
}
complete -F _calotype calotype
`;

export function bashScript(root: CommandShape): string {
  return `# bash completion for calotype, made by \`calotype completion bash\`\n${shellCore(root)}${bashTail}`;
}

const zshTail = `_calotype() {
  emulate -L zsh
  local word command='' position=0 kind='' i expect='' reply
  local -a connection names
  local cur="\${words[CURRENT]}"
  for ((i = 2; i < CURRENT; i++)); do
    word="\${words[i]}"
    if [[ -n "$expect" ]]; then
      [[ "$_calotype_connection_flags" == *" $expect "* ]] && connection+=("$expect" "\${(Q)word}")
      expect=''
      continue
    fi
    if [[ "$word" == -* ]]; then
      [[ -n "$(_calotype_flag_value "$command" "$word")" ]] && expect="$word"
      continue
    fi
    if [[ " $(_calotype_words "$command") " == *" $word "* ]]; then
      command="\${command:+$command }$word"
    else
      position=$((position + 1))
    fi
  done
  if [[ -n "$expect" ]]; then
    kind="$(_calotype_flag_value "$command" "$expect")"
  else
    if [[ "$cur" == -* ]]; then
      names=(\${=$(_calotype_flags "$command")})
      compadd -- $names
      return
    fi
    reply="$(_calotype_words "$command")"
    if [[ -n "$reply" ]]; then
      names=(\${=reply})
      compadd -- $names
      return
    fi
    kind="$(_calotype_argument "$command" "$position")"
  fi
  case "$kind" in
    words:*) names=(\${=kind#words:}); compadd -- $names ;;
    file) _files ;;
    directory) _files -/ ;;
    object:*) names=("\${(@f)$(\${(Q)words[1]} $connection completion names "\${kind#object:}" 2>/dev/null)}"); compadd -- $names ;;
  esac
}
if [[ "$funcstack[1]" == _calotype ]]; then _calotype "$@"; else compdef _calotype calotype; fi
`;

export function zshScript(root: CommandShape): string {
  return `#compdef calotype\n# zsh completion for calotype, made by \`calotype completion zsh\`\n${shellCore(root)}${zshTail}`;
}

const fishQuote = (text: string): string => `'${text.replace(/[\\']/g, '\\$&')}'`;

export function fishScript(root: CommandShape): string {
  const valued = allCommands(root).flatMap((shape) =>
    shape.flags.filter((flag) => flag.value !== null).flatMap((flag) => flag.names),
  );
  const lines = [
    '# fish completion for calotype, made by `calotype completion fish`',
    'function __calotype_path # the words of the command so far, without flags and their values',
    `  set -l valued ${[...new Set(valued)].join(' ')}`,
    '  set -l skip 0',
    '  for word in (commandline -opc)[2..-1]',
    '    if test $skip = 1; set skip 0; continue; end',
    '    if contains -- $word $valued; set skip 1; continue; end',
    "    if string match -q -- '-*' $word; continue; end",
    '    echo $word',
    '  end',
    'end',
    'function __calotype_at # COUNT WORDS…: the command is WORDS and COUNT arguments follow it (-1: any number)',
    '  set -l path (__calotype_path)',
    '  set -l wanted $argv[2..-1]',
    '  set -l depth (count $wanted)',
    '  test (count $path) -ge $depth; or return 1',
    '  if test $depth -gt 0; test "$path[1..$depth]" = "$wanted"; or return 1; end',
    '  test $argv[1] = -1; or test (math (count $path) - $depth) = $argv[1]',
    'end',
    'function __calotype_names # KIND',
    '  set -l connection',
    '  set -l words (commandline -opc)',
    '  for i in (seq 2 (count $words))',
    '    if contains -- $words[$i] --url --token --data --project --cacert',
    '      set -l next (math $i + 1)',
    '      set -a connection $words[$i] $words[$next]',
    '    end',
    '  end',
    '  command calotype $connection completion names $argv[1] 2>/dev/null',
    'end',
    'complete -c calotype -f',
  ];
  const candidates = (kind: ValueKind): string => {
    if (kind.startsWith('words:')) return ` -a ${fishQuote(kind.slice(6))}`;
    if (kind.startsWith('object:')) return ` -a ${fishQuote(`(__calotype_names ${kind.slice(7)})`)}`;
    if (kind === 'file') return ' -F';
    return kind === 'directory' ? " -a '(__fish_complete_directories)'" : '';
  };
  for (const shape of allCommands(root)) {
    for (const child of shape.subcommands) {
      const word = child.path.split(' ').at(-1) ?? '';
      lines.push(
        `complete -c calotype -n '__calotype_at 0 ${shape.path}' -a ${word} -d ${fishQuote(child.description)}`,
      );
    }
    shape.args.forEach((kind, index) => {
      if (kind === 'any') return;
      const count = shape.isVariadic && index === shape.args.length - 1 ? -1 : index;
      lines.push(`complete -c calotype -n '__calotype_at ${count} ${shape.path}'${candidates(kind)}`);
    });
    for (const flag of shape.flags) {
      const names = flag.names
        .map((name) => (name.startsWith('--') ? ` -l ${name.slice(2)}` : ` -s ${name.slice(1)}`))
        .join('');
      const value = flag.value === null ? '' : ` -x${candidates(flag.value)}`.replace('-x -F', '-r -F');
      const condition = shape === root ? '' : ` -n '__calotype_at -1 ${shape.path}'`;
      lines.push(`complete -c calotype${condition}${names}${value} -d ${fishQuote(flag.description)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}
