"""python -m harness.evaluate RESULT.json: the devkit's metrics of a result file, with the devkit's own arguments."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.errors import InputError, exit_2_on_input_error

console = Console()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    result_path: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A nuScenes detection result file.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where metrics and curves go.")],
    eval_set: Annotated[str, typer.Option("--eval_set", help="A split of nuScenes or of the root's own.")] = "val",
    dataroot: Annotated[Path, typer.Option("--dataroot", help="A nuScenes root.")] = Path("/data/sets/nuscenes"),
    version: Annotated[str, typer.Option("--version", help="Its version folder.")] = "v1.0-trainval",
    config_path: Annotated[
        Path | None, typer.Option("--config_path", help="A detection configuration; CVPR 2019's if not given.")
    ] = None,
    render_curves: Annotated[int, typer.Option("--render_curves", min=0, max=1, help="Draw the curves, too.")] = 1,
    verbose: Annotated[int, typer.Option("--verbose", min=0, max=1, help="Print the metrics.")] = 1,
) -> None:
    """Write metrics_summary.json and metrics_details.json, equal to the devkit's, and with curves plots/*.pdf."""
    with exit_2_on_input_error():
        from nuscenes.eval.detection.evaluate import DetectionEval

        from harness.data.root import NuScenesRoot
        from harness.evaluate.detection import evaluate, write_metrics

        content = read_result(result_path)
        config = _config(config_path)
        root = NuScenesRoot(dataroot, version)
        metrics, curves = evaluate(root, eval_set, content["results"], config)
        try:
            (output_dir / "plots").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output_dir {output_dir} cannot be made: {error.strerror}") from error
        write_metrics(metrics, curves, content["meta"], output_dir)
        if render_curves:
            drawing = DetectionEval.__new__(DetectionEval)
            drawing.cfg, drawing.verbose, drawing.plot_dir = config, False, str(output_dir / "plots")
            drawing.render(metrics, curves)
        if verbose:
            _print(metrics)
            console.print(f"metrics: {output_dir}", highlight=False, markup=False, soft_wrap=True)


def read_result(path: Path) -> dict[str, Any]:
    """Meta and results of a result file, or InputError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"result file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"result file {path} is no JSON: {error}") from error
    for key in ("meta", "results"):
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            raise InputError(f"result file {path} has no mapping {key!r}; a result file has meta and results")
    return content


def _config(path: Path | None) -> Any:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.data_classes import DetectionConfig

    if path is None:
        return config_factory("detection_cvpr_2019")
    try:
        return DetectionConfig.deserialize(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"--config_path {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(
            f"--config_path {path} is no detection configuration: {type(error).__name__} {error}"
        ) from error


def _print(metrics: Any) -> None:
    from harness.console import print_table
    from harness.evaluate.detection import ERRORS

    errors = metrics.tp_errors
    rows = [["all", f"{metrics.mean_ap:.4f}", *(f"{errors[key]:.4f}" for key in ERRORS.values())]]
    for name, ap in metrics.mean_dist_aps.items():
        values = (metrics.get_label_tp(name, key) for key in ERRORS.values())
        rows.append([name, f"{ap:.4f}", *(f"{value:.4f}" for value in values)])
    print_table(console, ["class", "AP", *(name.removeprefix("m") for name in ERRORS)], rows)
    console.print(f"mAP {metrics.mean_ap:.4f}, NDS {metrics.nd_score:.4f}", highlight=False)


if __name__ == "__main__":
    app()
