"""Write the page of the command line while the site is built, from the commands themselves."""

from inspect import cleandoc
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from pipelines.cli.app import app

PAGE = "command-line.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the page to the site's files."""
    command = typer.main.get_command(app)
    say_in_full(command)
    with typer.Context(command, info_name="wsi-stain") as context:
        text = get_docs_for_click(obj=command, ctx=context, name="wsi-stain", title="Command line")
    files.append(File.generated(config, PAGE, content=text))
    return files


def say_in_full(command: Any) -> None:
    """Let lists of commands have the first paragraph of each one's help, which would be cut at 45 characters."""
    for each in getattr(command, "commands", {}).values():
        each.short_help = cleandoc(each.help or "").partition("\n\n")[0].replace("\n", " ")
        say_in_full(each)
