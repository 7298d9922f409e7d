"""How the documentation is built (``make docs``): warnings and broken links are errors."""

from dflmoe import __version__

project = "dflmoe"
author = "The dflmoe authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_show_copyright = False
html_theme = "furo"
html_title = f"dflmoe {version}"
html_static_path: list[str] = []
