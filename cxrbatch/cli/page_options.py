"""Options of the commands that fill an output folder: what its pages are made of, what is kept beside them."""

from __future__ import annotations

import click

templates_option = click.option(
    "--templates",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Folder of templates and style sheets to use before the package's.  [default: the package's]",
)

keep_embeddings_option = click.option(
    "--keep-embeddings/--no-keep-embeddings",
    default=None,
    help="Keep each image's embedding as numbers beside the reports, for `cxrbatch export`.  "
    "[default: no-keep-embeddings]",
)
