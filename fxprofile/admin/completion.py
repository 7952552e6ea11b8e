"""``fxprofile-admin completion``: let a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fxprofile.admin.shared.commands import AdminCommand, Answer

#: The scripts call the command with this variable; click derives the name from the program's.
_VARIABLE = "_FXPROFILE_ADMIN_COMPLETE"


@click.command(cls=AdminCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> Answer:
    """
    Print the completion script of a shell.

    For bash, add this to ~/.bashrc: eval "$(fxprofile-admin completion bash)". For zsh the same
    with zsh in ~/.zshrc. For fish: fxprofile-admin completion fish >
    ~/.config/fish/completions/fxprofile-admin.fish.
    """
    program = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"This version of click does not know {shell}.")
    name = program.info_name or "fxprofile-admin"
    script = kind(program.command, {}, name, _VARIABLE)
    # Its source() would run bash to check its version.
    text = script.source_template % script.source_vars()
    return Answer({"shell": shell, "script": text}, text.strip())
