"""`semanticd completion`: shell completion scripts, made from the commands themselves.

The scripts are static: they know the commands and options of the version that wrote them and call no program, so that a
TAB costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import click

from semanticd.entrypoints.cli.output import print_script

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("semanticd", "semantic")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print a completion script for bash, zsh or fish.

    `eval "$(semanticd completion bash)"` in `~/.bashrc` completes commands and options.
    """
    print_script(script(shell, context.find_root().command))


@dataclass(frozen=True, slots=True)
class Words:
    """The possible continuations of a command: subcommands with their help, and options."""

    path: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]


def words_of(program: click.Command) -> list[Words]:
    """Return the words of every command, the program itself first."""
    found: list[Words] = []
    _collect(program, (), found)
    return found


def _collect(command: click.Command, path: tuple[str, ...], found: list[Words]) -> None:
    inner: dict[str, click.Command] = {}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found_command = command.get_command(context, name)
            assert found_command is not None
            inner[name] = found_command
    options = [
        (name, _first_line(getattr(option, "help", None)))
        for option in command.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("--")
    ]
    found.append(
        Words(
            path,
            tuple((name, one.get_short_help_str(80)) for name, one in inner.items()),
            (*options, ("--help", "Show help.")),
        )
    )
    for name, one in inner.items():
        _collect(one, (*path, name), found)


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0] if (text or "").strip() else ""


def script(shell: str, program: click.Command) -> str:
    """Return the completion script for a shell."""
    words = words_of(program)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](words)


def _bash(words: list[Words]) -> str:
    cases = "\n".join(
        f'        "{" ".join(one.path)}") words="{" ".join(name for name, _ in (*one.commands, *one.options))}" ;;'
        for one in words
    )
    return f"""# bash completion for semanticd; made by `semanticd completion bash`
_semanticd() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" word words="" tried
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ "$word" == -* ]] && continue
        tried="${{path:+$path }}$word"
        case "$tried" in
{_bash_paths(words)}) path="$tried" ;;
        esac
    done
    case "$path" in
{cases}
    esac
    COMPREPLY=()
    for word in $words; do
        [[ "$word" == "$current"* && ( "$word" != --* || "$current" == -* ) ]] && COMPREPLY+=("$word")
    done
}}
complete -o default -F _semanticd {" ".join(PROGRAMS)}
"""


def _bash_paths(words: list[Words]) -> str:
    return "            " + "|".join(f'"{" ".join(one.path)}"' for one in words if one.path)


def _zsh(words: list[Words]) -> str:
    cases = "\n".join(
        f"        {_quoted(' '.join(one.path))})\n            entries=(\n"
        + "\n".join(
            f"                {_quoted(name.replace(':', chr(92) + ':') + ':' + text)}"
            for name, text in (*one.commands, *one.options)
        )
        + "\n            ) ;;"
        for one in words
    )
    paths = "|".join(_quoted(" ".join(one.path)) for one in words if one.path)
    return f"""#compdef {" ".join(PROGRAMS)}
# zsh completion for semanticd; made by `semanticd completion zsh`
_semanticd() {{
    local path_="" word tried
    local -a entries
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        [[ "$word" == -* ]] && continue
        tried="${{path_:+$path_ }}$word"
        case "$tried" in
            {paths}) path_="$tried" ;;
        esac
    done
    case "$path_" in
{cases}
    esac
    _describe 'semanticd' entries || _files
}}
if [[ "${{funcstack[1]}}" == "_semanticd" ]]; then
    _semanticd "$@"  # loaded from a folder in $fpath, on the first TAB
else
    compdef _semanticd {" ".join(PROGRAMS)}
fi
"""


def _fish(words: list[Words]) -> str:
    lines = ["# fish completion for semanticd; made by `semanticd completion fish`"]
    for program in PROGRAMS:
        for one in words:
            condition = _fish_condition(one)
            lines += [
                f"complete -c {program} -f -n {condition} -a {name} -d {_quoted(text)}"
                for name, text in one.commands
            ]
            lines += [
                f"complete -c {program} -n {condition} -l {name.removeprefix('--')} -d {_quoted(text)}"
                for name, text in one.options
            ]
    return "\n".join(lines) + "\n"


def _fish_condition(one: Words) -> str:
    if not one.path:
        return "__fish_use_subcommand"
    seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in one.path)
    if one.commands:
        seen += f"; and not __fish_seen_subcommand_from {' '.join(name for name, _ in one.commands)}"
    return _quoted(seen)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
