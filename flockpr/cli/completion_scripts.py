"""Completion scripts for bash, zsh and fish, made from the grammar of the command line.

Each script is a table of the verbs and a few lines that read it. Names of logical units are
asked for when they are completed, of the root that `flockpr lun list` finds by itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping

from flockpr.cli.grammar import Command, Operand, Option

_KINDS = {"FILE": "file", "PATH": "file", "TRACE": "file", "DIR": "directory", "LUN": "lun"}
_MAKES = "create"
"""The action whose NAME is one that does not exist yet."""

_NAMES = "flockpr lun list 2>/dev/null | awk 'NR > 1 { print $2 }'"


def script(shell: str, program: Command) -> str:
    """The completion script.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        program: The grammar of the command line.
    """
    makers: Mapping[str, Callable[[Command], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](program)


def kind(command: Command, word: Option | Operand) -> str:
    """What completes a value: ``file``, ``directory``, ``lun``, ``=a,b`` or ``any``."""
    name = word.value if isinstance(word, Option) else word.name
    if word.choices:
        return "=" + ",".join(word.choices)
    if isinstance(word, Option):
        names_a_lun = "--lun" in word.flags
    else:
        names_a_lun = name == "NAME" and "lun" in command.path and command.path[-1] != _MAKES
    return "lun" if names_a_lun else _KINDS.get(name, "any")


def _flags(command: Command) -> Iterable[str]:
    return (flag for option in command.options for flag in option.flags)


# bash

_BASH = """\
# Completion of flockpr for bash, printed by `flockpr completion bash`.

_flockpr_grammar() {{
  case $1 in
{table}
  esac
}}

_flockpr_values() {{
  case $1 in
    file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
    directory) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
    lun) mapfile -t COMPREPLY < <(compgen -W "$({names})" -- "$2") ;;
    =*) local list=${{1#=}}; mapfile -t COMPREPLY < <(compgen -W "${{list//,/ }}" -- "$2") ;;
  esac
}}

_flockpr() {{
  local path=flockpr options takes operands commands i word count=0 value=
  local cur=${{COMP_WORDS[COMP_CWORD]}}
  COMPREPLY=()
  _flockpr_grammar "$path"
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${{COMP_WORDS[i]}}
    if [[ $word == = ]]; then
      continue  # bash takes `--option=value` apart
    elif [[ -n $value ]]; then
      value=
    elif [[ $word == -* ]]; then
      value=$(_flockpr_kind "$word")
    elif [[ " $commands " == *" $word "* ]]; then
      path+=" $word"
      _flockpr_grammar "$path"
    else
      count=$((count + 1))
    fi
  done
  [[ $cur == = ]] && cur=
  if [[ -n $value ]]; then
    _flockpr_values "$value" "$cur"
  elif [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
  elif [[ -n $commands ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
  else
    local kinds=($operands)
    word=${{kinds[count]:-}}
    if [[ -z $word && ${{#kinds[@]}} -gt 0 && ${{kinds[-1]}} == *+ ]]; then
      word=${{kinds[-1]}}
    fi
    _flockpr_values "${{word%+}}" "$cur"
  fi
}}

_flockpr_kind() {{
  local pair
  for pair in $takes; do
    [[ ${{pair%%:*}} == "$1" ]] && printf '%s' "${{pair#*:}}"
  done
}}

complete -F _flockpr flockpr
"""


def _bash(program: Command) -> str:
    return _BASH.format(
        table="\n".join(_bash_case(command) for command in program.walk()), names=_NAMES
    )


def _bash_case(command: Command) -> str:
    takes = (
        f"{flag}:{kind(command, option)}"
        for option in command.options
        if option.value
        for flag in option.flags
    )
    operands = (kind(command, word) + "+" * word.repeatable for word in command.operands)
    fields = {
        "options": " ".join(_flags(command)),
        "takes": " ".join(takes),
        "operands": " ".join(operands),
        "commands": " ".join(one.path[-1] for one in command.commands),
    }
    lines = (f"      {name}={shlex.quote(words)}" for name, words in fields.items())
    return "\n".join((f"    {shlex.quote(command.name)})", *lines, "      ;;"))


# zsh

_ZSH = """\
#compdef flockpr
# Completion of flockpr for zsh, printed by `flockpr completion zsh`.

_flockpr_luns() {{
  local -a names
  names=(${{(f)"$({names})"}})
  compadd -a names
}}

{functions}

if [[ $funcstack[1] == _flockpr ]]; then
  _flockpr "$@"
else
  compdef _flockpr flockpr
fi
"""
_ZSH_ACTIONS = {"file": "_files", "directory": "_files -/", "lun": "_flockpr_luns", "any": "( )"}


def _zsh(program: Command) -> str:
    functions = "\n\n".join(_zsh_function(command) for command in program.walk())
    return _ZSH.format(names=_NAMES, functions=functions)


def _zsh_name(command: Command) -> str:
    return "_" + "_".join(command.path).replace("-", "_")


def _zsh_text(text: str) -> str:
    """A description inside an argument of _arguments."""
    for sign in "\\[]:":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def _zsh_action(kind_: str) -> str:
    if kind_.startswith("="):
        return "(" + kind_[1:].replace(",", " ") + ")"
    return _ZSH_ACTIONS[kind_]


def _zsh_function(command: Command) -> str:
    specs = [spec for option in command.options for spec in _zsh_option(command, option)]
    if command.commands:
        specs += ["1: :->command", "*:: :->rest"]
    for number, word in enumerate(command.operands, 1):
        place = "*" if word.repeatable else f"{number}" + ":" * (not word.required)
        specs.append(f"{place}:{_zsh_text(word.name)}:{_zsh_action(kind(command, word))}")
    body = "".join(f" \\\n    {shlex.quote(spec)}" for spec in specs)
    call = f"  _arguments -S{body}"
    if not command.commands:
        return f"{_zsh_name(command)}() {{\n{call}\n}}"
    return f"{_zsh_name(command)}() {{\n{_zsh_below(command, call)}\n}}"


def _zsh_option(command: Command, option: Option) -> list[str]:
    once = "*" if option.repeatable else f"({' '.join(option.flags)})"
    value = ""
    if option.value:
        value = f":{_zsh_text(option.value)}:{_zsh_action(kind(command, option))}"
    return [
        f"{once}{flag}{_zsh_sign(flag, option)}[{_zsh_text(option.help)}]{value}"
        for flag in option.flags
    ]


def _zsh_sign(flag: str, option: Option) -> str:
    """How a value may follow: `--flag value` and `--flag=value`; `-f value`."""
    return "=" if option.value and flag.startswith("--") else ""


def _zsh_below(command: Command, call: str) -> str:
    entries = "".join(
        f"\n        {shlex.quote(f'{one.path[-1]}:{_zsh_text(one.summary)}')}"
        for one in command.commands
    )
    calls = "".join(f"\n        {one.path[-1]}) {_zsh_name(one)} ;;" for one in command.commands)
    return f"""\
  local curcontext=$curcontext state line
  local -a commands
{call.replace("-S", "-C -S", 1)}
  case $state in
    command)
      commands=({entries}
      )
      _describe command commands
      ;;
    rest)
      case $words[1] in{calls}
      esac
      ;;
  esac"""


# fish

_FISH = """\
# Completion of flockpr for fish, printed by `flockpr completion fish`.

# Whether the words before the cursor lead to this command, as far as the grammar has any.
function __flockpr_at
    set -l path flockpr
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- "$path:$word" $__flockpr_takes; and set skip 1
        else if contains -- "$path $word" $__flockpr_commands
            set path "$path $word"
        end
    end
    test "$path" = "$argv"
end

function __flockpr_luns
    {names}
end

set -g __flockpr_commands {commands}
set -g __flockpr_takes {takes}

complete -c flockpr -f
{lines}
"""
_FISH_ACTIONS = {"file": "-rF", "directory": "-xa '(__fish_complete_directories)'"}


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish(program: Command) -> str:
    commands = list(program.walk())
    takes = (
        f"{command.name}:{flag}"
        for command in commands
        for option in command.options
        if option.value
        for flag in option.flags
    )
    return _FISH.format(
        names=_NAMES,
        commands=" ".join(_fish_quote(command.name) for command in commands),
        takes=" ".join(map(_fish_quote, takes)),
        lines="\n".join(line for command in commands for line in _fish_lines(command)),
    )


def _fish_lines(command: Command) -> Iterable[str]:
    start = f"complete -c flockpr -n {_fish_quote('__flockpr_at ' + command.name)}"
    for one in command.commands:
        yield f"{start} -a {one.path[-1]} -d {_fish_quote(one.summary)}"
    for option in command.options:
        names = " ".join(
            f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
        )
        value = " " + _fish_value(kind(command, option)) if option.value else ""
        yield f"{start} {names}{value} -d {_fish_quote(' '.join(option.help.split()))}"
    for word in command.operands:
        action = _fish_value(kind(command, word))
        if action != "-x":
            yield f"{start} {action.replace('-rF', '-F').replace('-x', '-f')}"


def _fish_value(kind_: str) -> str:
    """The arguments of `complete` for a value."""
    if kind_.startswith("="):
        return f"-xa {_fish_quote(kind_[1:].replace(',', ' '))}"
    if kind_ == "lun":
        return "-xa '(__flockpr_luns)'"
    return _FISH_ACTIONS.get(kind_, "-x")
