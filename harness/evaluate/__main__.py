"""python -m harness.evaluate RESULT.json: metrics of a result with confidence intervals, and the cost of its errors."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.console import count_progress, print_table, say
from harness.errors import InputError
from harness.program import Program

if TYPE_CHECKING:
    from harness.evaluate.intervals import Analysis

console = Console()
_say = partial(say, console)
app = Program()


@app.command()
def main(
    result_path: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A nuScenes detection result file.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for metrics, analysis and pictures.")],
    eval_set: Annotated[str, typer.Option("--eval_set", help="Split to score.")] = "val",
    dataroot: Annotated[Path, typer.Option("--dataroot", help="A nuScenes root.")] = Path("/data/sets/nuscenes"),
    version: Annotated[str, typer.Option("--version", help="Version folder in the root.")] = "v1.0-trainval",
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config_path",
            help="A detection configuration: a file, or a name such as within_16m. Default: CVPR 2019.",
        ),
    ] = None,
    plot_examples: Annotated[
        int,
        typer.Option("--plot_examples", min=0, help="Number of samples to draw with their boxes (needs LiDAR)."),
    ] = 10,
    render_curves: Annotated[int, typer.Option("--render_curves", min=0, max=1, help="1: draw the curves.")] = 1,
    verbose: Annotated[int, typer.Option("--verbose", min=0, max=1, help="1: print the metrics.")] = 1,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="OTHER.json", help="Another result of the same split; also report the difference."
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", min=0, help="Draws of scenes for the intervals; 0: only the devkit's files.")
    ] = 1000,
) -> None:
    """Score a nuScenes detection result as the devkit does, with confidence intervals and the cost of errors.

    The command writes metrics_summary.json and metrics_details.json, equal to the devkit's, with plots/*.pdf and
    examples/*.png. It also writes analysis.json and analysis.png: all metrics, the cost of each kind of error, AP by
    distance, visibility, LiDAR points and speed, and 95 % CIs over scenes. The CIs of differences are paired.
    """
    from detectors.batch import Inputs
    from harness.data.root import NuScenesRoot
    from harness.evaluate.detection import evaluate, held_against, write_metrics
    from harness.evaluate.figure import draw_curves, draw_examples, examples
    from harness.evaluate.result_file import read_result

    if resamples == 1:
        raise InputError("--resamples 1: one draw has no spread; allowed: 0, or 2 and more")
    if against is not None and not resamples:
        raise InputError("--against needs --resamples 2 or more")
    config = _config(config_path)
    meta, results = read_result(result_path)
    root = NuScenesRoot(dataroot, version)
    matched, metrics, curves = evaluate(root, eval_set, results, config)
    del results  # a result of nuScenes is as large as its file
    both = [matched]
    if against is not None:
        try:
            both.append(held_against(root, eval_set, read_result(against)[1], config))
        except InputError as error:
            raise InputError(f"--against {against}: {error}") from error
    drawn = examples(matched, plot_examples)
    if drawn:
        root.check_files(drawn, Inputs(lidar_sweeps=1))
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_metrics(metrics, curves, meta, output_dir)
        if drawn:
            draw_examples(output_dir, root, matched, config, drawn)
        if render_curves:
            draw_curves(output_dir, metrics, curves, config)
        if verbose and against is None:
            _print_metrics(metrics)
        if resamples:
            titles = _titles([result_path] if against is None else [result_path, against])
            _analyse(dict(zip(titles, both, strict=True)), config, resamples, output_dir, bool(verbose))
    except OSError as error:
        raise InputError(f"--output_dir {output_dir} cannot be written: {error}") from error


def _titles(paths: Sequence[Path]) -> list[str]:
    """Names for the results: the labels of their jobs, or the names of their files or folders."""
    from harness.runs.folder import RunFolder

    folders = [path.absolute().parent for path in paths]
    labels = [RunFolder(folder).label() or path.stem for folder, path in zip(folders, paths, strict=True)]
    for names in (labels, [folder.name for folder in folders]):
        if len(set(names)) == len(paths):
            return names
    return ["A", "B"][: len(paths)]


def _config(path: Path | None) -> Any:
    from harness.evaluate.detection import detection_config, read_config
    from harness.study.spec import DETECTION_CONFIG_PATTERN

    if path is None or re.match(DETECTION_CONFIG_PATTERN, str(path)):
        return detection_config("nuscenes" if path is None else str(path))
    return read_config(path)


def _print_metrics(metrics: Any) -> None:
    from harness.evaluate.metrics import ERRORS

    errors = metrics.tp_errors
    rows = [["all", f"{metrics.mean_ap:.4f}", *(f"{errors[key]:.4f}" for key in ERRORS.values())]]
    for name, ap in metrics.mean_dist_aps.items():
        values = (metrics.get_label_tp(name, key) for key in ERRORS.values())
        rows.append([name, f"{ap:.4f}", *(f"{value:.4f}" for value in values)])
    print_table(console, ["class", "AP", *(name.removeprefix("m") for name in ERRORS)], rows)
    _say(f"mAP {metrics.mean_ap:.4f}, NDS {metrics.nd_score:.4f}")


def _analyse(results: dict[str, Any], config: Any, resamples: int, out: Path, verbose: bool) -> None:
    """Analyse one result or two, then write and print the analysis."""
    from harness.evaluate.analysis import analyse, write_analysis
    from harness.evaluate.figure import draw_analysis
    from harness.evaluate.intervals import MIN_SCENES

    with count_progress(console, "parts of the analysis") as show:
        first, *others = analyse(list(results.values()), config, resamples, os.cpu_count() or 1, show)
    analyses = dict(zip(results, (first, *others), strict=True))
    difference = {"difference": first - others[0]} if others else {}
    write_analysis(out / "analysis.json", analyses, resamples)
    draw_analysis(out / "analysis.png", analyses, config.dist_th_tp)
    if verbose:
        _print_analysis(analyses, difference)
        if first.scenes < MIN_SCENES:
            _say(f"Fewer than {MIN_SCENES} scenes: no intervals.")
        else:
            _say(
                f"± is the standard error, brackets the 95 % interval, of {resamples:,} draws of {first.scenes} "
                "scenes; AP, mAP and NDS in points. One in twenty intervals misses the true value."
            )
    _say(f"metrics: {out}, and as a picture: {out / 'analysis.png'}")


def _print_analysis(analyses: "dict[str, Analysis]", difference: "dict[str, Analysis]") -> None:
    from harness.evaluate.analysis import is_error

    shown = {title: analysis.estimates() for title, analysis in (difference or analyses).items()}
    (title, groups), *_ = shown.items()
    plain = [analysis.estimates() for analysis in analyses.values()] if difference else []
    counts = next(iter(analyses.values())).counts
    for group, numbers in groups.items():
        rows = []
        for name, estimate in numbers.items():
            form, scale = ("{:.3f}", 1.0) if is_error(group, name) else ("{:.1f}", 100.0)
            signed = form.replace(":", ":+") if difference else form
            known = estimate.standard_error == estimate.standard_error
            rows.append(
                [
                    name,
                    *([f"{counts[group][name].annotations:,}"] if group in counts else []),
                    *(form.format(scale * result[group][name].value) for result in plain),
                    signed.format(scale * estimate.value),
                    f"± {form.format(scale * estimate.standard_error)}" if known else "",
                    f"[{signed.format(scale * estimate.low)}, {signed.format(scale * estimate.high)}]" if known else "",
                ]
            )
        counted = ["annotations"] if group in counts else []
        print_table(console, [group, *counted, *(analyses if difference else []), title, "", "95 %"], rows)


if __name__ == "__main__":
    app()
