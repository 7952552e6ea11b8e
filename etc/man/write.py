"""
Write ``fxprofile-admin.1``, the manual page, from the help of the commands: ``make man``.

One page for all commands, as they share their options; existing tools write one page for each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Final

import click

from fxprofile.admin.main import cli
from fxprofile.admin.shared.commands import common_options

PAGE: Final = Path(__file__).with_name("fxprofile-admin.1")

_FILES: Final = """\
.SH ENVIRONMENT
.TP
.B FXPROFILE_SECTION__KEY
Sets one setting. It overrides the file, and \\-\\-set overrides it.
.SH EXIT STATUS
0 if all is well, 1 if something is wrong, and 2 if the command line or a setting is wrong.
.SH SEE ALSO
.BR twistd (1)
"""


def page() -> str:
    """Return the manual page (man(7))."""
    lines = ['.TH FXPROFILE\\-ADMIN 1 "" fxprofile "System administration"', ".SH NAME"]
    lines += ["fxprofile\\-admin \\- operate a profile service", ".SH SYNOPSIS"]
    lines += [".B fxprofile\\-admin", "[OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]"]
    lines += [".SH DESCRIPTION", *_text(cli.help or ""), ".SH OPTIONS"]
    context = click.Context(cli, info_name="fxprofile-admin", **cli.context_settings)
    lines += _options(cli, context, everything=True)
    lines.append(".SH COMMANDS")
    for name, command in cli.commands.items():
        lines += _command(command, context, name)
    return "\n".join(lines) + "\n" + _FILES


def _command(command: click.Command, above: click.Context, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=above)
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from _command(one, context, below)
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_escaped(context.command_path.partition(' ')[2])} {_escaped(usage)}"
    yield from _text(command.help or "")
    yield from _options(command, context)


def _options(
    command: click.Command, context: click.Context, everything: bool = False
) -> Iterator[str]:
    common = set() if everything else {option.opts[0] for option in common_options()}
    for option in command.get_params(context):
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if (
            record is None
            or option.opts[0] in common
            or (not everything and "--help" in option.opts)
        ):
            continue
        yield ".TP"
        yield f".B {_escaped(record[0])}"
        yield _escaped(record[1])


def _text(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
