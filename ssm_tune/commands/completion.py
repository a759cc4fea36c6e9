"""Shell completion: a script for bash or zsh that knows the subcommands with their flags and names, and the settings.

The script asks no Python: it holds the words that this installation has, so a Tab answers at once. The shell looks up
run folders and paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from ssm_tune.commands import SUBCOMMANDS
from ssm_tune.config.choices import CHOICES
from ssm_tune.config.groups import GROUPS, benchmarks, conf_dir, names
from ssm_tune.config.schema import Config
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.yaml_files import read_yaml

TOP_FLAGS = ("-m", "--help", "--version", "--cfg", "--completion")
RUNS = ("score", "show", "compare", "evaluate", "export")
"""Subcommands that take run folders."""
SETTINGS = ("plan", "data", "search", "status", "score", "generate", "evaluate")
"""Subcommands that take settings, beside a run itself."""
NO_OPTIONS = ("_target_", "defaults", "published", "families")
"""What a yaml holds beside its options."""
BASH = """\
# bash completion of ssm-tune
_ssm_tune() {{
  local line=${{COMP_LINE:0:COMP_POINT}} word words="" flags="" runs="" path IFS=$' \\t\\n'
  word=${{line##*[[:space:]]}}
  local -a before
  read -ra before <<< "${{line%"$word"}}"
  local sub=${{before[1]}} prev=${{before[${{#before[@]}}-1]}}
  local settings="{settings}"
  case "$sub" in
{commands}
    *) flags="{top_flags}" words=$settings
       [[ ${{#before[@]}} == 1 ]] && words="{names} $settings" ;;
  esac
  # what follows a flag
  case "$sub $prev" in
{flags}
    {value_flags}) COMPREPLY=($(compgen -f -- "$word")); return ;;
    *) ;;
  esac
  # "=" and ":" part words in bash: what stands before the last "=" is there already
  case "$word" in
{values}
    -*) words=$flags runs= ;;
    */*=*) ;;
    *=*) COMPREPLY=($(compgen -f -- "${{word#*=}}")); return ;;
    /*|./*) words= runs=1 ;;
  esac
  if [[ $runs ]]; then
    for path in results/runs/*/*/record.json; do [[ -e $path ]] && words+=" ${{path%/record.json}}"; done
    COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
    [[ $word == *=* ]] && COMPREPLY=("${{COMPREPLY[@]#"${{word%=*}}="}}")
    compopt -o filenames 2>/dev/null
    return 0
  fi
  [[ $word == *,* ]] && local left=${{word#*=}} && left=${{left%,*}}, || local left=
  local last=${{word#*=}}; last=${{last##*,}}
  COMPREPLY=($(compgen -W "$words" -P "$left" -- "$last"))
  [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}}
complete -o bashdefault -F _ssm_tune ssm-tune
"""
ZSH = """\
# zsh completion of ssm-tune
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -u }}
_ssm_tune() {{
  local sub= prev=$words[CURRENT-1] name=${{${{PREFIX%%=*}}##+}} runs=
  (( CURRENT > 2 )) && sub=$words[2]
  local -a known flags settings values
  settings=({settings})
  case $sub in
{commands}
    *) flags=({top_flags}) known=()
       (( CURRENT == 2 )) && known=({names}) ;;
  esac
  case "$sub $prev" in
{flags}
    {value_flags}) _files; return ;;
  esac
  if [[ $PREFIX == -* ]]; then
    compadd -a flags
    return
  fi
  case $PREFIX in
    ([^=/]##|hydra/launcher|+[a-z]##)=*)
      compset -P '*='
      case $name in
{values}
        *) _files; return ;;
      esac
      compset -P '*,'
      compadd -a values
      return ;;
  esac
  compadd -a known
  compadd -S '' -a settings
  [[ -n $runs ]] && compadd -- results/runs/*/*/record.json(N:h)
  [[ -n $runs || $PREFIX == */* ]] && _files
  return 0
}}
compdef _ssm_tune ssm-tune
"""


@dataclass(frozen=True)
class Subcommand:
    """What Tab offers behind one. words: names that it takes; flags: with the words that may follow each, None for one
    that takes no value, empty for a path or a number."""

    name: str
    words: tuple[str, ...]
    flags: dict[str, tuple[str, ...] | None]

    @property
    def settings(self) -> bool:
        return self.name in SETTINGS

    @property
    def runs(self) -> bool:
        return self.name in RUNS


def script(arguments: Sequence[str]) -> str:
    """The script for the shell that ``arguments`` name. Raises UserError for another one."""
    if list(arguments) not in (["bash"], ["zsh"]):
        raise UserError("--completion needs a shell: ssm-tune --completion bash, or zsh")
    bash = arguments[0] == "bash"
    commands = [_subcommand(name) for name in SUBCOMMANDS]
    after = [
        (f"{one.name} {flag}", words) for one in commands for flag, words in one.flags.items() if words is not None
    ]
    values = _values()
    return (BASH if bash else ZSH).format(
        names=" ".join(SUBCOMMANDS),
        settings=" ".join(f"{name}=" for name in _names(values)),
        top_flags=" ".join(TOP_FLAGS),
        commands="\n".join((_in_bash if bash else _in_zsh)(one) for one in commands),
        flags="\n".join(_after_flag(bash, key, words) for key, words in after if words),
        value_flags="|".join(f'"{key}"' for key, words in after if not words),
        values="\n".join(_of_setting(bash, name, choices) for name, choices in values.items()),
    )


def _in_bash(one: Subcommand) -> str:
    words = " ".join([*one.words, *(["$settings"] if one.settings else [])])
    return f'    {one.name}) flags="{" ".join(one.flags)}" words="{words}"{" runs=1" * one.runs} ;;'


def _in_zsh(one: Subcommand) -> str:
    plain = "" if one.settings else " settings=()"
    return (
        f"    {one.name}) flags=({' '.join(one.flags)}) known=({' '.join(one.words)}){plain}{' runs=1' * one.runs} ;;"
    )


def _after_flag(bash: bool, key: str, words: Sequence[str]) -> str:
    if bash:
        return f'    "{key}") COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")); return ;;'
    return f'    "{key}") compadd -- {" ".join(words)}; return ;;'


def _of_setting(bash: bool, name: str, choices: Sequence[str]) -> str:
    if bash:
        return f'    {name}=*|+{name}=*) words="{" ".join(choices)}" runs= ;;'
    return f"        {name}) values=({' '.join(choices)}) ;;"


def _subcommand(name: str) -> Subcommand:
    """Read off the usage of its help, as argparse prints it."""
    module = import_module(f"ssm_tune.commands.{name}")
    parsers = [module._parser()] if name != "data" else [module._fetch_parser(), module._show_parser()]
    usage = " ".join(" ".join(parser.format_usage() for parser in parsers).split())
    flags: dict[str, tuple[str, ...] | None] = {"--help": None}
    for flag, value in re.findall(r"[\[(| ](--[\w-]+)(?: (\{[^}]*\}|[A-Z_]+))?", usage):
        flags[flag] = _following(flag, value) if value else None
    return Subcommand(name, _positional(name), flags)


def _following(flag: str, value: str) -> tuple[str, ...]:
    if value.startswith("{"):
        return tuple(value.strip("{}").split(","))
    group = flag.removeprefix("--")
    if group in GROUPS:
        return tuple(names(group))
    return CHOICES.get(group, ())


def _positional(name: str) -> tuple[str, ...]:
    """The names that a subcommand takes without a flag."""
    if name in ("plan", "status"):
        return tuple(names("sweep"))
    if name == "search":
        return tuple(names("search"))
    if name in ("table", "report"):
        return tuple(names("table"))
    if name == "data":
        return ("fetch", "show", "all", *benchmarks(), *(task for task in names("task") if task not in benchmarks()))
    return tuple(names("method")) if name == "compare" else ()


def _values() -> dict[str, tuple[str, ...]]:
    """By setting the words that it may have."""
    found = {name: ("true", "false") for name, kind in _settings(Config, "") if kind is bool} | CHOICES
    for group in (*GROUPS, "sweep", "search", "hydra/launcher"):
        found[group] = tuple(names(group))
    for name, value in _own_settings():
        if isinstance(value, bool):
            found[name] = ("true", "false")
    return found


def _names(values: dict[str, tuple[str, ...]]) -> list[str]:
    """The settings that a line may have."""
    shared = [name for name, _ in _settings(Config, "")]
    own = [name for name, _ in _own_settings()]
    special = [f"+{name}" if name == "sweep" else name for name in values if name != "search"]
    return list(dict.fromkeys((*GROUPS, *shared, *special, *own)))


def _own_settings() -> Iterator[tuple[str, Any]]:
    """The options of methods, tasks, models and launchers, as their yamls have them."""
    for group in ("method", "task", "model", "hydra/launcher"):
        for name in names(group):
            content = read_yaml(conf_dir() / group / f"{name}.yaml")
            for key, value in (content["task"] if group == "task" else content).items():
                if key not in NO_OPTIONS:
                    yield f"{group.replace('/', '.')}.{key}", value


def _settings(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The dotted names of the shared settings, with their types."""
    hints = get_type_hints(section)
    for field in fields(section):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from _settings(kind, f"{prefix}{field.name}.")
        elif kind is not Any:
            yield f"{prefix}{field.name}", kind
