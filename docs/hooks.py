"""Links that lead out of docs/ (to a result, an example, the changelog) on the documentation site.

On a code host they work as they are. The site holds the pages of docs/ only, so there a link to a file of the
repository becomes its label and its path. A path that does not exist stays as it is, and the strict build
reports it.
"""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[(?P<label>[^\]]+)\]\((?P<path>\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """Replace each link to a file outside docs/ by text that names the file."""

    def text(link: re.Match[str]) -> str:
        target = (Path(page.file.abs_src_path).parent / link["path"]).resolve()
        if not target.exists():
            return link[0]
        path = Path(os.path.relpath(target, ROOT)).as_posix()
        return f"`{path}`" if path in link["label"] else f"{link['label']} (`{path}`)"

    return LINK.sub(text, markdown)
