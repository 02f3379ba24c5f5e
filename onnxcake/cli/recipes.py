"""Parse the commands about recipes."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The recipes that come with onnxcake; lists them if no command is given.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name.")]


@app.callback(invoke_without_command=True)
def _listed(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_recipes()


@app.command("list")
def list_recipes() -> None:
    """List the recipes: name, title, and what each needs of the teacher."""
    from ..recipe.method_table import needs
    from ..recipe.recipe import Recipe, names

    for name in names():
        recipe = Recipe.load(name)
        typer.echo(f"{name:22} {recipe.title}; needs: {', '.join(needs(recipe)) or 'answers alone'}")


@app.command("show")
def show_recipe(name: Name) -> None:
    """Print a recipe, comments included."""
    from ..recipe.recipe import text_of

    typer.echo(text_of(name), nl=False)


@app.command("diff")
def diff_recipes(
    one: Name, other: Annotated[str, typer.Argument(metavar="OTHER", help="Another recipe's name.")]
) -> None:
    """Say in which parts two methods differ."""
    from rich.console import Console
    from rich.table import Table

    from ..recipe.method_table import difference
    from ..recipe.recipe import Recipe

    differ = difference(Recipe.load(one), Recipe.load(other))
    table = Table("", one, other)
    for row in differ:
        table.add_row(*row)
    if differ:
        Console().print(table)
    else:
        typer.echo("The same parts; if they differ, then in their numbers.")
