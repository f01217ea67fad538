"""The names of the two files by which a dataset that this project wrote is told from a stranger's folder."""

MARKER = ".crossbev-synthetic.json"
"""Written first: tells an unfinished dataset of ours from a stranger's folder."""
MANIFEST = "manifest.json"
"""Written last: a dataset without it is unfinished."""
