"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="DFLMOE_HOME", help="Folder of this site.")
]
HOME = Path("~/.dflmoe")
OutOption = Annotated[Path, typer.Option("--out", help="File to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
