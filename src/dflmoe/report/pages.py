"""How templates become pages, for every part of the package that has some."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(package: str, *, escape: bool = True) -> Environment:
    """Return the templates of a package; a name that a template does not know is an error.

    Args:
        package: Its folder ``templates`` holds them.
        escape: Whether what is filled in is text and not markup.
    """
    return Environment(
        loader=PackageLoader(package),
        autoescape=escape,  # noqa: S701 - Markdown is not markup; every HTML page escapes
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
