"""Names of the two files that mark a dataset of this project."""

MARKER = ".crossbev-synthetic.json"
"""Written first: tells an unfinished dataset of ours from a stranger's folder."""
MANIFEST = "manifest.json"
"""Written last: a dataset without it is unfinished."""
