"""python -m tests.gpu.run_all OUT [--pretend] [SECTION ...]: run sections, each in a process, and write one table.

They run on a card or, with --pretend, on the device of `tests.gpu.pretend`, as far as it can. A CUDA error leaves a
process unusable, and a section that hangs must not cost the others: hence a process each.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

SECTIONS = {
    "machine": 40,
    "steps": 110,
    "sparse": 75,
    "waits": 45,
    "pooling": 60,
    "speed": 80,
    "resume": 70,
    "study": 210,
}
"""Each with the seconds it may take."""
PRETENDED = {"steps": 1800, "waits": 1800, "contract": 600, "resume": 1800}
"""The same of what can be pretended, where a processor computes everything."""


def run(section: str, out: Path, pretend: bool = False) -> dict:
    """What one section came to: its lines, whether it ran to its end, and how long it took."""
    began, lines = time.monotonic(), Path(tempfile.mkdtemp()) / "rows.jsonl"
    module = ["tests.gpu.pretend", section] if pretend else [f"tests.gpu.{section}"]
    command, limit = [sys.executable, "-m", *module, str(lines)], (PRETENDED if pretend else SECTIONS)[section]
    with (out / "gpu.log").open("a") as log:
        print(f"== {section}", file=log, flush=True)
        try:
            status = subprocess.run(command, stdout=log, stderr=log, timeout=limit, check=False).returncode
            ended = "ran" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit} s"
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    failed = ended != "ran" or not rows or any(row.get("ok") is False for row in rows)
    return {"section": section, "ended": ended, "failed": failed, "seconds": time.monotonic() - began, "rows": rows}


def table(results: list[dict]) -> str:
    """The results as Markdown."""
    parts = [f"Run of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `tests/gpu/run_all.sh`.\n"]
    for result in results:
        parts.append(f"## {result['section']}\n\n{result['ended']}, {result['seconds']:.0f} s\n")
        rows = result["rows"]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if rows:
            parts.append("| " + " | ".join(columns) + " |")
            parts.append("|" + " --- |" * len(columns))
            parts += ["| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |" for row in rows]
            parts.append("")
    return "\n".join(parts)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "\\|")


def main() -> int:
    """Run what is asked; 1 where anything failed."""
    pretend = "--pretend" in sys.argv
    given, *sections = (argument for argument in sys.argv[1:] if argument != "--pretend")
    out = Path(given)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for section in sections or (PRETENDED if pretend else SECTIONS):
        results.append(run(section, out, pretend))
        print(f"{section}: {results[-1]['ended']}, {results[-1]['seconds']:.0f} s", flush=True)
        # After each, so that what ran is there whatever comes next.
        (out / "gpu.json").write_text(json.dumps(results, indent=1))
        (out / "gpu.md").write_text(table(results))
    return int(any(result["failed"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
