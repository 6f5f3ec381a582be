"""The verb ``completion``: a script with which a shell completes both commands.

It is made from the parsers, so that it knows each option. Labels are those of the dataset that
stands on the line, read by the shell itself: no Python runs while somebody types.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["add_completion", "call_completion", "completion_script"]

SHELLS: Final = ("bash", "zsh")
LABELS: Final = {
    "participant_label": "sub",
    "session_label": "ses",
    "task_label": "task",
    "run_label": "run",
    "echo_label": "echo",
}
MODELS: Final = frozenset({"models", "model"})
USE: Final = """
put this into the file that your shell reads when it starts:
  eval "$(neurostorm-tools completion bash)"    # ~/.bashrc
  eval "$(neurostorm-tools completion zsh)"     # ~/.zshrc, after compinit"""

BASH: Final = r"""
# $1 the word, $2 the folder of a dataset, $3 the key of the label
_neurostorm_labels() {
  local path name key="$3" found=()
  local root="${2/#\~/$HOME}"
  local -a paths
  case "$key" in
    sub) paths=("$root"/sub-*/) ;;
    ses) paths=("$root"/sub-*/ses-*/) ;;
    *) paths=("$root"/sub-*/func/*_bold.nii* "$root"/sub-*/ses-*/func/*_bold.nii*) ;;
  esac
  for path in "${paths[@]:0:2000}"; do
    name="${path%/}"; name="_${name##*/}"
    [[ "$name" == *"_$key-"* ]] || continue
    name="${name#*_"$key"-}"; name="${name%%[_.]*}"
    # compgen runs what looks like a command.
    [[ "$name" =~ ^[0-9A-Za-z+]+$ ]] && found+=("$name")
  done
  compgen -W "$(printf '%s\n' "${found[@]}" | sort -u)" -- "$1"
}

# After an option that takes several words another option may follow.
_neurostorm_offer() {
  if [[ "${completing_word-}" == -* ]]; then
    compgen -W "${current_option_strings[*]}" -- "$completing_word"
  else
    "$@"
  fi
}
_neurostorm_files() { _neurostorm_offer compgen -f -- "$1"; }
""" + "".join(
    f'_neurostorm_label_{key}() {{ _neurostorm_offer _neurostorm_labels "$1" "${{COMP_WORDS[1]}}"'
    f" {key}; }}\n"
    for key in LABELS.values()
)

ZSH: Final = r"""
# A rule of zsh takes as many words as it names: of a list, only one is left on the line, the word
# that is typed or the first. $@ the rules; those of lists have " ..." in their names.
_neurostorm_shorten() {
  emulate -L zsh -o extended_glob
  local -a lists=("${(@)${(@)${(@M)argv:#*[[:alnum:]] ...:*}#\*}%%\[*}") kept
  local i n=-1 at=0 word
  for (( i = 1; i <= $#words; i++ )); do
    word="$words[i]"
    if [[ "$word" == -* ]]; then
      n=$(( ${lists[(Ie)$word]} ? 0 : -1 ))
    elif (( n >= 0 && ++n > 1 )); then
      (( i == CURRENT )) && kept[-1]="$word" && at=$#kept
      continue
    fi
    kept+=("$word")
    (( i == CURRENT )) && at=$#kept
  done
  words=("${kept[@]}")
  CURRENT=$at
  compstate[restore]=''  # else they are put back at the end of this function
}

# $1 the key of the label; the dataset is the first word after the command
_neurostorm_labels() {
  emulate -L zsh -o extended_glob -o null_glob
  local root="${(Q)words[2]/#\~/$HOME}" name
  local -a paths found
  case "$1" in
    sub) paths=("$root"/sub-*(/)) ;;
    ses) paths=("$root"/sub-*/ses-*(/)) ;;
    *) paths=("$root"/sub-*/func/*_bold.nii* "$root"/sub-*/ses-*/func/*_bold.nii*) ;;
  esac
  for name in ${paths[1,2000]:t}; do
    name="_$name"
    [[ "$name" == *"_$1-"* ]] || continue
    name="${${name#*_$1-}%%[_.]*}"
    [[ "$name" =~ '^[0-9A-Za-z+]+$' ]] && found+=("$name")
  done
  compadd -- "${(u)found[@]}"
}
""" + "".join(
    f"_neurostorm_label_{key}() {{ _neurostorm_labels {key} }}\n" for key in LABELS.values()
)
RULES: Final = re.compile(r"(?m)^( *)(_arguments -C -s \$(\w+))$")


def add_completion(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    import argparse

    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.epilog = USE
    verb.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" or ".join(SHELLS))


def call_completion(asked: argparse.Namespace) -> None:
    """Do what the verb asks for."""
    print(completion_script(asked.shell))


def completion_script(shell: Literal["bash", "zsh"]) -> str:
    """Write the script of a shell for both commands.

    Parameters
    ----------
    shell : {'bash', 'zsh'}
        For which.

    Returns
    -------
    str
        To be evaluated by it.
    """
    import shtab

    from neurostorm_app.bids_app.tools import build_parser as build_tools
    from neurostorm_app.bids_app.words.parser import build_parser

    scripts = []
    for parser in (build_parser(), build_tools()):
        _annotate(parser)
        if shell == "zsh":
            _fit_to_zsh(parser)
        preamble = BASH if shell == "bash" else ZSH
        script = shtab.complete(parser, shell, preamble=preamble)
        if shell == "zsh":
            script = RULES.sub(r'\1_neurostorm_shorten "${\3[@]}"\n\1\2', script)
        scripts.append(script)
    return "\n".join(scripts)


def _annotate(parser: argparse.ArgumentParser) -> None:
    """Tell what each argument takes, in shtab's way, and leave out second spellings."""
    fields = _fields()
    for action in parser._actions:  # noqa: SLF001
        verbs = action.choices if action.nargs == "A..." else None
        for verb in verbs.values() if isinstance(verbs, dict) else ():
            _annotate(verb)
        action.option_strings = [flag for flag in action.option_strings if "_" not in flag]
        action.help = textwrap.shorten(action.help, 60) if action.help else action.help
        if action.nargs == 0 or action.choices:
            continue
        known = list(_known(action.dest, fields.get(action.dest)))
        if known:
            action.choices = known
        elif action.dest in LABELS:
            function = f"_neurostorm_label_{LABELS[action.dest]}"
            action.complete = dict.fromkeys(SHELLS, function)  # type: ignore[attr-defined]
        elif _takes_path(action, fields.get(action.dest)):
            files = {"bash": "_neurostorm_files", "zsh": "_files"}
            action.complete = files  # type: ignore[attr-defined]


def _fit_to_zsh(parser: argparse.ArgumentParser) -> None:
    """Write what each option takes so that no rule of zsh ends there, and mark those of lists."""
    for action in parser._actions:  # noqa: SLF001
        verbs = action.choices if action.nargs == "A..." else None
        for verb in verbs.values() if isinstance(verbs, dict) else ():
            _fit_to_zsh(verb)
        if action.option_strings and action.nargs != 0:
            name = re.sub(r"\W+", " ", str(action.metavar or action.dest)).strip()
            action.metavar = f"{name} ..." if action.nargs in {"+", "*"} else name
            if action.choices:
                action.choices = [str(word).replace(":", r"\\:") for word in action.choices]


def _fields() -> dict[str, Any]:
    """Types of the options by their names."""
    from neurostorm_app.bids_app.settings import GROUPS

    return {
        name: field.annotation
        for model in GROUPS.values()
        for name, field in model.model_fields.items()
    }


def _known(name: str, annotation: Any) -> Iterator[str]:
    """Yield the values of an option, where they are few."""
    if name in MODELS:
        from neurostorm_app.models import list_models

        yield from list_models()
    elif name == "output_spaces":
        from neurostorm_app.pipelines.grid import STANDARD_GRIDS

        yield from ("T1w", "native", *(f"{space}:res-{res}" for space, res in STANDARD_GRIDS))
    elif name == "denoise":
        from neurostorm_app.pipelines.denoise_strategies import STRATEGIES

        yield from STRATEGIES
    elif name == "level":
        yield from ("participant", "group")
    else:
        yield from {"device": ("auto", "cpu", "cuda"), "executor": ("local", "dask")}.get(name, ())
        yield from map(str, _literals(annotation))


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _literals(part)


def _takes_path(action: argparse.Action, annotation: Any) -> bool:
    """Tell whether an argument is a file or a folder."""
    parts = {annotation, *get_args(annotation)}
    named = action.dest in {"bids_dir", "output_dir", "config_file", "invocation"}
    return action.type is Path or Path in parts or named
