"""Shell completion: a script for bash or zsh that knows the subcommands, the groups' names and the shared settings.

The script asks no Python: it holds the words that this installation has, so a Tab answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from ssm_tune.commands import SUBCOMMANDS
from ssm_tune.config.choices import CHOICES
from ssm_tune.config.groups import GROUPS, names
from ssm_tune.config.schema import Config
from ssm_tune.utils.errors import UserError

BASH = """\
# bash completion of ssm-tune
_ssm_tune() {{
  local line=${{COMP_LINE:0:COMP_POINT}} word IFS=$' \\t\\n'
  word=${{line##*[[:space:]]}}
  local words="{words}"
  # "=" and ":" part words in bash: what stands before the last "=" is there already
  case "$word" in
{cases}
    -*) words="-m --help --version --cfg --completion" ;;
    *=*|/*|./*) COMPREPLY=($(compgen -f -- "${{word#*=}}")); return ;;
  esac
  [[ $word == *,* ]] && local before=${{word#*=}} && before=${{before%,*}}, || local before=
  local last=${{word#*=}}; last=${{last##*,}}
  COMPREPLY=($(compgen -W "$words" -P "$before" -- "$last"))
  [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}}
complete -o bashdefault -F _ssm_tune ssm-tune
"""
ZSH = """\
# zsh completion of ssm-tune
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -u }}
_ssm_tune() {{
  local name=${{${{PREFIX%%=*}}##+}}
  local -a values
  if [[ $PREFIX == -* ]]; then
    compadd -- -m --help --version --cfg --completion
  elif [[ $PREFIX != *=* ]]; then
    compadd -- {commands}
    compadd -S '' -- {settings}
    [[ $PREFIX == */* ]] && _files
  else
    compset -P '*='
    case $name in
{cases}
      *) _files; return ;;
    esac
    compset -P '*,'
    compadd -a values
  fi
}}
compdef _ssm_tune ssm-tune
"""


def script(arguments: Sequence[str]) -> str:
    """The script for the shell that ``arguments`` name. Raises UserError for another one."""
    if list(arguments) not in (["bash"], ["zsh"]):
        raise UserError("--completion needs a shell: ssm-tune --completion bash, or zsh")
    kinds = dict(_settings(Config, ""))
    values = {name: ("true", "false") for name, kind in kinds.items() if kind is bool} | CHOICES
    values |= {group: tuple(names(group)) for group in GROUPS}
    settings = " ".join(f"{name}=" for name in dict.fromkeys((*GROUPS, *kinds, *CHOICES)))
    commands = " ".join(SUBCOMMANDS)
    if arguments[0] == "bash":
        cases = (f'    {name}=*) words="{" ".join(choices)}" ;;' for name, choices in values.items())
        return BASH.format(words=f"{commands} {settings}", cases="\n".join(cases))
    cases = (f"      {name}) values=({' '.join(choices)}) ;;" for name, choices in values.items())
    return ZSH.format(commands=commands, settings=settings, cases="\n".join(cases))


def _settings(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The dotted names of the shared settings, with their types."""
    hints = get_type_hints(section)
    for field in fields(section):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from _settings(kind, f"{prefix}{field.name}.")
        elif kind is not Any:
            yield f"{prefix}{field.name}", kind
