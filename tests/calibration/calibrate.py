"""How often tables claim what is not there, and find what is: `python -m tests.calibration.calibrate --help`."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from harness.evidence.effects import groups
from harness.evidence.line import HEADLINE_METRICS
from harness.evidence.results import outcomes
from harness.evidence.runs import StudyRuns
from harness.evidence.statistics import Blocks, Spread
from harness.runs.folder import RunFolder, atomic_write
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.world.roots import find_images, open_root
from tests.calibration.simulate import COMPONENTS, FITTED, Components, Rates, Truth, claims, rates

HERE = Path(__file__).parent
console = Console()
app = typer.Typer(add_completion=False)
Runs = Annotated[Path, typer.Option(help="Folder of the stored runs.")]


def outcomes_of(path: Path, runs: Path, given: list[str]):
    """What the rows of a study came to, and its plan."""
    study = load_study(path, given)
    root = open_root(study.data, console)
    samples = partial(root.count, study.data.train_split)
    plan = plan_study(study, root.fingerprint(), samples, find_images(console))
    return outcomes(StudyRuns.open(plan, runs)), plan


def _components(blocks: Blocks, contrast: dict[str, float]) -> tuple[float, float, float]:
    """Variances of a contrast between trainings of one seed on this split: by seed, by scene / C, and rest / C."""
    weight = np.array([contrast.get(name, 0.0) for name in blocks.names])
    scene, rest = blocks.over_scenes(weight)
    return max(0.0, blocks.residual[0] * float(weight @ weight) - rest), scene, rest


@app.command()
def fit(studies: list[Path], runs: Runs = Path("runs"), seeds: str = "0,1,2") -> None:
    """Fit the variances of gains to the finished arms of some studies, and write components.json."""
    found: dict[str, dict[tuple[str, ...], tuple[float, float, float]]] = {metric: {} for metric in HEADLINE_METRICS}
    for path in studies:
        trained, _ = outcomes_of(path, runs, [f"seeds=[{seeds}]"])
        for group in groups(trained):
            for key in group.baselines:
                contrast = group.contrast(key)
                if contrast and not group.split:
                    for metric, blocks in group.blocks.items():
                        found[metric][tuple(contrast)] = _components(blocks, contrast)
    content = {
        "what": "variances of a gain in points squared, of one seed on one split: by seed, by scene / C, rest / C",
        "from": [path.name for path in studies],
        "seeds": seeds,
        "gains": len(found[HEADLINE_METRICS[0]]),
        "components": {},
    }
    for metric, parts in found.items():
        mean = np.mean(list(parts.values()), axis=0)
        content["components"][metric] = dict(zip(("seed", "scene", "rest"), mean.round(4).tolist(), strict=True))
    atomic_write(COMPONENTS, (json.dumps(content, indent=2) + "\n").encode())
    console.print(content)


@app.command()
def simulate(tables: int = 2000, draws: int = 200, arms: int = 6, scenes: int = 54) -> None:
    """Simulate tables from components.json, and write simulated.json and calibration.png."""
    found = []
    for metric, components in FITTED.items():
        for seeds in (1, 2, 3, 5, 10):
            truth = Truth(arms, seeds, scenes)
            stated = detectable(components, truth) if seeds > 1 else float("nan")
            found.append(_line(metric, components, truth, stated, tables, draws))
        for seeds in (3, 5):
            # What pooling assumes, broken: the seeds of one arm spread twice as far.
            found.append(_line(metric, components, Truth(arms, seeds, scenes, unlike=2.0), float("nan"), tables, draws))
    # Other worlds than ours: scenes alone, seeds alone, all alike.
    for name, other in (
        ("scenes alone", Components(0.0, 1.0, 0.0)),
        ("seeds alone", Components(1.0, 0.0, 0.0)),
        ("all alike", Components(1.0, 1.0, 1.0)),
    ):
        for seeds in (3, 5):
            truth = Truth(arms, seeds, scenes)
            found.append(_line(name, other, truth, detectable(other, truth), tables, draws))
    content = {"tables": tables, "draws": draws, "arms": arms, "scenes": scenes, "rows": found}
    atomic_write(HERE / "simulated.json", (json.dumps(content, indent=1) + "\n").encode())
    draw(found, tables)


def detectable(components: Components, truth: Truth) -> float:
    """The smallest difference that such a study could see, as it is stated if its spread is known."""
    rest = components.rest
    seeds = (components.seed + rest) / truth.seeds
    return Spread(seeds, truth.arms * (truth.seeds - 1), components.scene, truth.scenes - 1).detectable()


def _line(what: str, components: Components, truth: Truth, stated: float, tables: int, draws: int) -> dict:
    nothing = rates(components, truth, tables, draws, seed=truth.seeds)
    line = {"what": what, "seeds": truth.seeds, "unlike": truth.unlike} | asdict(nothing)
    if not np.isnan(stated):
        planted = Truth(truth.arms, truth.seeds, truth.scenes, gain=stated)
        line |= {"planted": stated, "found": rates(components, planted, tables, draws, seed=100 + truth.seeds).found}
    else:
        # Of the first arm, when it spreads as no other does.
        line |= {"planted": None}
    console.print(line)
    return line


@app.command()
def deal(runs: Runs = Path("runs"), tables: int = 2000, arms: int = 4) -> None:
    """Deal the trainings of one spec under many seeds into arms that cannot differ; write dealt.json."""
    trained, plan = outcomes_of(HERE / "one_spec.yaml", runs, [])
    finished = [outcome for outcome in trained if not outcome.missing]
    random = np.random.default_rng(0)
    scenes = finished[0].draws.scenes
    found = []
    for metric in HEADLINE_METRICS:
        values = np.array([outcome.metrics[metric] for outcome in finished])
        drawn = np.stack([outcome.draws.values[metric] for outcome in finished])

        def dealt(seeds: int, values=values, drawn=drawn):
            for _ in range(tables):
                groups = random.permutation(len(values))[: (1 + arms) * seeds].reshape(1 + arms, seeds)
                names = [f"arm {number}" for number in range(1 + arms)]
                blocks = Blocks(
                    {name: values[group].tolist() for name, group in zip(names, groups, strict=True)},
                    {name: drawn[group] for name, group in zip(names, groups, strict=True)},
                    scenes,
                )
                yield [blocks.effect({name: 1.0, names[0]: -1.0}) for name in names[1:]]

        for seeds in (3, 5):
            result: Rates = claims(dealt(seeds))
            line = {"metric": metric, "seeds": seeds, "mean": values.mean(), "std": values.std(ddof=1)} | asdict(result)
            console.print(line)
            found.append(line)
    commits = sorted({RunFolder(runs / id_).result().machine["commit"] for id_ in plan.jobs})
    content = {
        "trainings": len(finished),
        "commits": commits,
        "tables": tables,
        "arms": arms,
        "scenes": scenes,
        "rows": found,
    }
    atomic_write(HERE / "dealt.json", (json.dumps(content, indent=1) + "\n").encode())


def draw(found: list[dict], tables: int) -> None:
    """The picture of simulated.json."""
    figure = Figure(figsize=(8, 0.34 * len(found) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    labels = [
        f"{line['what']}, {line['seeds']} seed{'s' if line['seeds'] > 1 else ''}"
        + (", one arm unlike" if line["unlike"] != 1 else "")
        for line in found
    ]
    places = np.arange(len(found))
    error = 196 * np.sqrt(0.05 * 0.95 / tables)
    axes[0].axvspan(3.5, 6.5, color="#009E73", alpha=0.15, lw=0)
    axes[0].errorbar([100 * line["per_row"] for line in found], places, fmt="o", color="#0072B2", label="a row")
    axes[0].errorbar(
        [100 * line["family"] for line in found], places, xerr=error, fmt="s", color="#D55E00", label="a table, Holm"
    )
    axes[0].set_title("no effect: claimed, %", fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    axes[1].axvspan(75, 85, color="#009E73", alpha=0.15, lw=0)
    shown = [(place, 100 * line["found"]) for place, line in zip(places, found, strict=True) if line["planted"]]
    axes[1].plot([rate for _, rate in shown], [place for place, _ in shown], "o", color="#0072B2")
    axes[1].set_title("planted the detectable effect: found, %", fontsize=10)
    axes[0].set_yticks(places, labels, fontsize=8)
    axes[0].invert_yaxis()
    for each in axes:
        each.grid(axis="x", color="#d0d7de", linewidth=0.6)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "calibration.png", dpi=110)


if __name__ == "__main__":
    app()
