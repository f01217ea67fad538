"""Builds the tables of a report: results, AP by class, significance, attribution, cost, and published results."""

import math
from collections.abc import Sequence
from dataclasses import replace

from distill.loss import PullSpec
from harness.evaluate.intervals import MIN_SCENES
from harness.evaluate.mask_ap import SMALLEST_PX
from harness.evidence.attribution import Part
from harness.evidence.effects import ALPHA, BETTER, WORSE, Ascribed, foremost
from harness.evidence.line import (
    CLASS_AP,
    ERRORS,
    HEADLINE_METRICS,
    MASKS,
    Gain,
    Key,
    Line,
    Mean,
    by_key,
    gain_column,
    line_name,
)
from harness.evidence.results import Cost
from harness.evidence.statistics import POWER
from harness.report.render import BOLD, Cell, Sign, Table
from harness.study.papers import MEANINGS, SIGNS, Metric, Paper, PublishedGain
from harness.study.roles import StudentSpec, TeacherSpec
from harness.study.schedule import ScheduleSpec
from harness.study.spec import OTHERS, WARM_START, StudySpec, scored_range

IMAGE_TEACHER = "image teacher"
"""Role of a row that the table omits because it has no boxes; the details describe it."""
_UNCORRECTED, _UNSURE = "significant before correction", "not significant"
_SHORT = {_UNSURE: "n.s.", BETTER: "better", WORSE: "worse", _UNCORRECTED: "uncorr."}
"""Verdicts in a narrow terminal."""
_VERDICTS = (
    Sign((BETTER, WORSE), f"{BETTER} or (worse): p (Holm) < {ALPHA}."),
    Sign(("better", "worse"), f"better, worse: significant, p (Holm) < {ALPHA}."),
    Sign((_UNCORRECTED,), f"{_UNCORRECTED}: only p < {ALPHA}."),
    Sign(("uncorr.",), f"uncorr.: {_UNCORRECTED}, only p < {ALPHA}."),
    Sign((_UNSURE,), f"{_UNSURE}: this does not mean no gain."),
    Sign(("n.s.",), f"n.s.: {_UNSURE}, which does not mean no gain."),
    Sign(("vs",), "vs paper: comparison with a published gain whose number or sign was read for certain."),
)
"""Verdicts in the words that are printed."""
_SIGNS = (
    Sign(("±",), "±: standard deviation over seeds."),
    Sign(("errors",), "Errors are nuScenes' true-positive errors; lower is better."),
    Sign((BOLD,), "Bold: best rows of a student, its baseline included."),
)
ONE_SEED = "One seed: the interval covers the choice of validation scenes only."
SYNTHETIC = "These are numbers of the embedded synthetic world, not of nuScenes."


def results_table(
    lines: Sequence[Line], study: StudySpec, details: Sequence[str] = (), plain_epochs: float | None = None
) -> Table:
    """Build the table of all rows of the study in the form of papers, with further details below the legend.

    Args:
        lines: The rows.
        study: Whose they are.
        details: Sentences.
        plain_epochs: As in `Plan`.
    """
    papers = list(dict.fromkeys(name for line in lines for name in line.published))
    published = [f"{paper} gain {metric}" for paper in papers for metric in HEADLINE_METRICS]
    gained = [f"gain {metric}" for metric in HEADLINE_METRICS]
    header = ["row", "seeds", *HEADLINE_METRICS, *gained, *ERRORS, *published, "parameters"]
    groups = ["metrics"] * 6 + ["errors"] * len(ERRORS) + ["paper"] * len(published) + ["cost"]
    kinds = _machines(lines)
    shown = [line for line in lines if line.key.role != IMAGE_TEACHER]
    best = _best(shown)
    rows: list[list[Cell]] = []
    for line in shown:
        name = line.name
        if len(kinds) > 1 and line.machine:
            name += f" [{', '.join(kinds[kind] for kind in line.machine.split('; '))}]"
        cells = [
            Cell(name, jobs=line.jobs),
            Cell(str(line.seeds), line.seeds, short=""),
        ]
        if line.missing:
            cells.append(Cell(line.missing, jobs=line.jobs, short=line.missing.partition(":")[0]))
            rows.append([*cells, *[Cell("")] * (len(header) - 3)])
            continue
        cells += [_mean_cell(line, metric, "{:.1f}", best) for metric in HEADLINE_METRICS]
        for metric in HEADLINE_METRICS:
            gain = line.gains[metric]
            text, short = gain_text(gain), f"{_plain(gain.mean.value, '{:+.1f}')} {interval_text(gain.low, gain.high)}"
            is_best = (line.key, gain_column(metric)) in best
            if line.unpaired:
                text = short = "unpaired"
            cells.append(replace(number_cell(text, gain.mean.value, is_best, line.jobs), short=short.strip()))
        cells += [_mean_cell(line, metric, "{:.3f}", best) for metric in ERRORS]
        for paper in papers:
            reported = line.published.get(paper)
            cells += [
                number_cell(published_text(reported, metric), reported.points(metric) if reported else None)
                for metric in HEADLINE_METRICS
            ]
        rows.append([*cells, number_cell(_plain(line.parameters, "{:,.0f}"), line.parameters)])
    more = [*run_details(lines, study), *details]
    return Table.of("results", "Results", header, rows, legend(lines, study, plain_epochs), more, groups, signs=_SIGNS)


def _mean_cell(line: Line, metric: str, form: str, best: set[tuple[Key, str]]) -> Cell:
    mean = line.metrics[metric]
    cell = number_cell(mean_text(mean, form), mean.value, (line.key, metric) in best, line.jobs)
    return replace(cell, short=_plain(mean.value, form))


def class_table(lines: Sequence[Line]) -> Table | None:
    """Build the table of AP by class; None if no run has any."""
    shown = [line for line in lines if not all(math.isnan(line.metrics[name].value) for name in CLASS_AP)]
    rows = [
        [Cell(line.name, jobs=line.jobs), *(_mean_cell(line, n, "{:.1f}", set()) for n in CLASS_AP)] for line in shown
    ]
    notes = ["AP in percent, mean ± standard deviation over seeds; mAP is the mean over these classes."]
    header = ["row", *(name.replace("_", " ") for name in CLASS_AP.values())]
    return Table.of("classes", "AP by class", header, rows, notes, group="errors") if rows else None


def _best(shown: Sequence[Line]) -> set[tuple[Key, str]]:
    """Return the best rounded values: pairs of line and column without a better line of that student and split.

    No gain below 0 is among them: the baseline is better.
    """
    best = set()
    compared = [line for line in shown if line.key.role in ("baseline", "control", "student")]
    for lines in by_key(compared, lambda line: (line.key.model, line.key.split)):
        for name in (*HEADLINE_METRICS, *ERRORS, *map(gain_column, HEADLINE_METRICS)):
            form, better = ("{:.3f}", min) if name in ERRORS else ("{:.1f}", max)
            values = {line.key: line.means[name].value for line in lines}
            rounded = {key: float(form.format(value)) for key, value in values.items() if not math.isnan(value)}
            top = better(rounded.values(), default=math.nan)
            # The gain of the baseline is 0, though no cell says so.
            if len(rounded) > 1 and not (top < 0 and name not in ERRORS):
                best |= {(key, name) for key, value in rounded.items() if value == top}
    return best


def verdicts_table(lines: Sequence[Line], study: StudySpec, unlike: Sequence[str] = ()) -> Table | None:
    """Build the table of significance, MDE and published gain of each gain; None without any gain.

    Args:
        lines: The lines of the table.
        study: Their study.
        unlike: Warnings about arms whose seeds vary more than others'.
    """
    header = ("row", "metric", "gain", "95 % CI", "p", "p (Holm)", "verdict", "MDE", "paper", "vs paper")
    groups = (*["metrics"] * 8, "paper", "paper")
    rows: list[list[Cell]] = []
    family = 0
    for line in lines:
        if line.key.split or not _has_interval(line):
            continue
        paper, published = foremost(line.published)
        for metric, gain in line.gains.items():
            family += not math.isnan(gain.holm)
            reported = published_text(published, metric)
            value, interval = _plain(gain.mean.value, "{:+.1f}"), interval_text(gain.low, gain.high)
            rows.append(
                [
                    Cell(line.name, jobs=line.jobs, short=None if metric == HEADLINE_METRICS[0] else ""),
                    Cell(metric),
                    replace(number_cell(value, gain.mean.value), short=f"{value} {interval}".strip()),
                    replace(number_cell(interval, gain.mean.value), short=""),
                    number_cell(p_text(gain.p), gain.p),
                    number_cell(p_text(gain.holm), gain.holm),
                    Cell(gain.verdict, short=_SHORT.get(gain.verdict)),
                    number_cell(_plain(gain.detectable, "{:.1f}"), gain.detectable),
                    Cell(f"{paper} {reported}" if reported else ""),
                    Cell(gain.agreement),
                ]
            )
    if not rows:
        return None
    notes = [
        f"Gain and 95 % CI in pp. p: two-sided test of no gain over {_over(_sampled(_known(lines)))}. p (Holm): "
        f"corrected for the {family} gains of this table. MDE: minimum detectable effect in pp, the smallest true "
        f"gain that is detected with p < {ALPHA} at {POWER:.0%} power."
        + (f" {ONE_SEED}" if len(study.seeds) < 2 else ""),
    ]
    # Many studies have no published gain, or none that can be compared.
    there = [n for n in range(len(header)) if groups[n] != "paper" or any(row[n].text for row in rows)]
    columns = [header[n] for n in there]
    chosen, of = [[row[n] for n in there] for row in rows], [groups[n] for n in there]
    return Table.of("verdicts", "Significance", columns, chosen, [*notes, *unlike], groups=of, signs=_VERDICTS)


def attribution_table(ascribed: Sequence[Ascribed]) -> Table | None:
    """Build the table of the effects of losses; None if the arms cannot separate them."""
    if not ascribed:
        return None
    rows: list[list[Cell]] = []
    for metrics in by_key(ascribed, lambda each: (each.path, each.part.kind, each.part.what, each.part.to)):
        cells = [Cell(metrics[0].path), Cell(part_text(metrics[0].part))]
        for each in sorted(metrics, key=lambda each: HEADLINE_METRICS.index(each.metric)):
            effect = each.part.effect
            text = f"{effect.value:+.1f} {interval_text(effect.low, effect.high)}".rstrip()
            cells += [number_cell(text, effect.value), number_cell(p_text(each.holm), each.holm)]
        rows.append(cells)
    header = ("path", "what", "mAP", "p (Holm)", "NDS", "p (Holm)")
    kinds = {each.part.kind for each in ascribed}
    effects = [each.part.effect for each in ascribed]
    known = [(effect.seeds, effect.scenes) for effect in effects if not math.isnan(effect.p)]
    notes = ["Effects in pp. Their 95 % CI is unknown."]
    if known:
        notes = [f"Effects in pp with 95 % CI over {_over(known)}. p (Holm): corrected for all effects of this table."]
    if max(effect.seeds for effect in effects) == 1:
        notes.append(ONE_SEED)
    if "main effect" in kinds:
        notes.append(
            "Main effect: mean gain of adding a loss, over all sets of the other losses. Interaction: how much larger "
            "the gain of one loss is when the other is present. Shapley value: mean gain of adding a loss, over all "
            "orders of adding; the values sum to the gain of all losses together. It is close to the main effect and "
            "therefore not tested separately."
        )
    if "added" in kinds:
        notes.append(
            "Added: the difference between an arm and the next smaller one. Other effects cannot be separated, because "
            "not every set of losses is an arm."
        )
    return Table.of("attribution", "Ablation (attribution)", header, rows, notes)


def part_text(part: Part) -> str:
    """Name an effect; losses are joined by a +."""
    if part.to is not None:
        return f"{'+'.join(part.what)}, added to {'+'.join(part.to)}"
    return f"{part.kind} of {' and '.join(part.what)}"


def p_text(p: float) -> str:
    """Format p with two digits, with three near 5 %, and as an upper bound if it is tiny."""
    if math.isnan(p):
        return ""
    if 0.045 <= p < 0.055:
        return f"{p:.3g}"
    return "< 0.0001" if p < 0.0001 else f"{p:.2f}" if p >= 0.1 else f"{p:.2g}" if p >= 0.001 else f"{p:.4f}"


def interval_text(low: float, high: float) -> str:
    """Format the ends of an interval; empty if unknown."""
    return "" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"


def published_table(paper: Paper) -> Table:
    """Build the table of a paper's numbers, each with its mark."""
    header = ["row", "dataset", *HEADLINE_METRICS, *ERRORS, "source"]
    rows: list[list[Cell]] = []
    for row in paper.rows:
        numbers: list[Cell] = []
        for metric in (*HEADLINE_METRICS, *ERRORS):
            value = getattr(row, metric)
            form = "{:.1f}" if metric in HEADLINE_METRICS else "{:.3f}"
            numbers.append(number_cell(_plain(value, form, SIGNS[row.mark]), value))
        rows.append([Cell(row.label), Cell(row.dataset), *numbers, Cell(row.source)])
    used = {SIGNS[row.mark] for row in paper.rows}
    notes = [*paper.notes, *(meaning for sign, meaning in MEANINGS.items() if sign in used)]
    title = f"Published: {paper.name} ({paper.venue}, arXiv {paper.arxiv})"
    return Table.of(f"published-{paper.name.lower()}", title, header, rows, notes, group="paper")


def cost_table(costs: Sequence[Cost]) -> Table:
    """Build the table of the cost of trainings, which varies between machines and runs."""
    header = ["row", "seeds", "parameters", "inference (ms)", "step (ms)", "minutes", "CPU minutes", "peak memory (MB)"]
    rows = [
        [
            Cell(line_name(cost.role, cost.model, cost.path, cost.arm)),
            Cell(str(cost.seeds), cost.seeds, short=""),
            number_cell(_plain(cost.parameters, "{:,.0f}"), cost.parameters),
            number_cell(_plain(cost.latency_ms, "{:.1f}"), cost.latency_ms),
            number_cell(_plain(cost.step_ms, "{:.0f}"), cost.step_ms),
            number_cell(_plain(cost.minutes, "{:.1f}"), cost.minutes),
            number_cell(_plain(cost.cpu_minutes, "{:.1f}"), cost.cpu_minutes),
            number_cell(_plain(cost.peak_memory_mb, "{:.0f}"), cost.peak_memory_mb),
        ]
        for cost in costs
    ]
    notes = [
        "Minutes: training and scoring together, mean over seeds. Step: median time. Peak memory: the largest of all "
        "seeds. Inference: median time from one sample to its boxes. Other work on the machine increases all times.",
    ]
    return Table.of("cost", "Cost", header, rows, notes, group="cost")


def legend(lines: Sequence[Line], study: StudySpec, plain_epochs: float | None = None) -> list[str]:
    """Return the sentences below the table, which apply to all of its numbers (`plain_epochs` is that of `Plan`)."""
    data, schedule = study.data, study.schedule
    ranges = (
        "nuScenes' class ranges (50, 40, 30 m)"
        if data.detection_config == "nuscenes"
        else f"nuScenes' metrics with class ranges cut at {scored_range(data.detection_config)} m"
    )
    of_scenes = "" if data.train_share == 1 else f"{data.train_share:.0%} of the scenes of "
    cache = ""
    if schedule.teacher_cache:
        variants = schedule.teacher_cache.variants
        cache = f"; {variants} variants of each sample; what losses read of a teacher in float16"
    sentences = [
        f"Scored on {data.version} {data.eval_split}, trained on {of_scenes}{data.train_split}; {ranges}; students: "
        f"{_length(schedule, plain_epochs)}{cache}{_other_lengths(study, plain_epochs)}; "
        f"seeds {', '.join(map(str, study.seeds))}.",
        " ".join(
            [
                "mAP and NDS in percent, gains in percentage points (pp). Gain: difference from the baseline, the same "
                "student with the same seed trained without a teacher, before any rounding.",
                *interval_notes(lines),
            ]
        ),
    ]
    if data.root is None:
        sentences.append(SYNTHETIC)
    if data.also_score:
        sentences.append(
            f"Rows that name a split ({', '.join(data.also_score)}) show the same models scored on that split. "
            f"Scores on {data.train_split} measure memorisation, not accuracy."
        )
    if data.train_split == data.eval_split:
        sentences.append(
            "The models are scored on their training samples: this tests the pipeline and is not a result."
        )
    sentences += [f"{line.name} has no gain: {line.unpaired}." for line in lines if line.unpaired]
    sentences += [f"Warning for {line.name}: {line.warning}." for line in lines if line.warning]
    kinds = _machines(lines)
    if len(kinds) > 1:
        named = "; ".join(f"[{letter}] {kind}" for kind, letter in kinds.items())
        sentences.append(
            "The rows were made on different kinds of machines or with different settings, which changes numbers "
            f"slightly: {named}."
        )
    return sentences


def run_details(lines: Sequence[Line], study: StudySpec) -> list[str]:
    """Describe teachers, arms and columns of papers in sentences."""
    sentences = [_teacher(name, study) for name in study.teachers if name not in study.unused_teachers]
    sentences += [
        f"Student {name}{text}; also its baseline."
        for name, model in study.students.items()
        if (text := _beginning(model))
    ]
    sentences += [_image_teacher(line, study) for line in lines if line.key.role == IMAGE_TEACHER]
    if used := dict.fromkeys(name for losses in study.arms.values() for name in losses):
        sentences.append(f"Losses: {'; '.join(_loss(name, study) for name in used)}.")
    if weights := [f"{line.name}: {_set_weights(line)}" for line in lines if line.weights]:
        sentences.append(f"Weights that set themselves, by row: {'; '.join(weights)}.")
    # One that says in its name what it is made of needs no more words.
    sentences += [f"Arm {arm}: {', '.join(losses)}." for arm, losses in study.arms.items() if arm != "+".join(losses)]
    if study.schedule.distillation_warmup and study.paths:
        share = study.schedule.distillation_warmup
        sentences.append(
            f"Warm-up: the weights of the losses grow from 0 during the first {share:.0%} of the training."
        )
    if study.schedule.distillation_cooldown and study.paths:
        share = study.schedule.distillation_cooldown
        sentences.append(f"Cool-down: the weights of the losses fall to 0 during the last {share:.0%} of the training.")
    if published := [gain for line in lines for gain in line.published.values()]:
        if any(WARM_START in losses for losses in study.arms.values()):
            sentences.append("The students in the papers do not start as copies of a teacher.")
        marks = {SIGNS[gain.mark] for gain in published}
        signs = [meaning for sign, meaning in MEANINGS.items() if sign in marks]
        sentences.append(
            " ".join(
                [
                    "Columns of a paper: the gain in pp that it reports on nuScenes for this path and these losses.",
                    *signs,
                ]
            )
        )
    return sentences


def interval_notes(lines: Sequence[Line]) -> list[str]:
    """Explain the brackets after gains; nothing if no gain has an interval."""
    known = _known(lines)
    if not known:
        return []
    over = _over(_sampled(known))
    means = {
        "seeds and scenes": ".",
        "scenes": f". {ONE_SEED}",
        "seeds": f" only, because there are fewer than {MIN_SCENES} scenes or a run has no bootstrap draws.",
    }[over]
    return [f"Brackets: 95 % CI of the mean gain over {over}{means}"]


def _has_interval(line: Line) -> bool:
    return not all(math.isnan(gain.low) for gain in line.gains.values())


def _known(lines: Sequence[Line]) -> list[Line]:
    """The lines whose gain has an interval, on the evaluation split if possible."""
    known = [line for line in lines if _has_interval(line)]
    return [line for line in known if not line.key.split] or known


def _sampled(lines: Sequence[Line]) -> list[tuple[int, float | int]]:
    return [(line.seeds, line.scenes) for line in lines]


def _over(sampled: Sequence[tuple[int, float | int]]) -> str:
    """Name what the intervals of effects cover, given their numbers of seeds and scenes."""
    varies = {"seeds": max(seeds for seeds, _ in sampled) > 1, "scenes": all(scenes > 0 for _, scenes in sampled)}
    return " and ".join(name for name, is_so in varies.items() if is_so)


def _teacher(name: str, study: StudySpec) -> str:
    """Describe a teacher."""
    teacher = study.teachers[name]
    if teacher.oracle:
        return f"Teacher {name}: an oracle, which draws the annotations as the maps of a head (a control)."
    mirrored = ", its maps mirrored left to right (a control)" if teacher.mirrored else ""
    if teacher.maps is not None:
        return f"Teacher {name}: a folder of maps, the same for every student. It is not scored here."
    if teacher.checkpoint is not None:
        return f"Teacher {name}: given weights, the same for every student{mirrored}."
    state = ("" if teacher.trained else ", untrained (a control)") + mirrored + _beginning(teacher)
    if teacher.seed == "paired":
        return f"Teacher {name}: each student learns from the teacher of its own seed{state}."
    return f"Teacher {name}: seed {teacher.seed}, the same for every student{state}."


def _beginning(model: TeacherSpec | StudentSpec) -> str:
    """Describe a detector's own share of the training scenes, weights to begin with and schedule; empty without."""
    share = "" if model.train_share is None else f", trained on {model.train_share:.0%} of the training scenes"
    backbone = model.init.image_backbone
    begun = f", its image backbone begins as that of {backbone}" if backbone else ""
    scheduled = f", with {', '.join(f'{key}: {value}' for key, value in model.schedule.items())}"
    return share + begun + (scheduled if model.schedule else "")


def _length(schedule: ScheduleSpec, plain_epochs: float | None) -> str:
    """Describe the length of a training, its batch, its learning rate and the optimizer if it is not the papers'."""
    length = f"{schedule.steps} steps" if schedule.epochs is None else f"{schedule.epochs:g} epochs"
    if schedule.class_balanced:
        each = "" if plain_epochs is None else f", each of {plain_epochs:.2f} plain ones"
        length += f" of class-balanced samples (CBGS{each}),"
    else:
        length += " of"
    micro = schedule.micro_batch
    parts = "" if micro is None else ", in parts that fit" if micro == "auto" else f", {micro} at once"
    optimizer = "" if schedule.optimizer == "adamw" else f" ({schedule.optimizer.capitalize()})"
    return f"{length} batch {schedule.global_batch}{parts}, learning rate {schedule.peak_lr:g}{optimizer}"


def _other_lengths(study: StudySpec, plain_epochs: float | None) -> str:
    """Describe those of students with a schedule of their own."""
    others = {name: study.schedule_of(model) for name, model in study.students.items() if model.schedule}
    return "".join(f"; {name}: {_length(schedule, plain_epochs)}" for name, schedule in others.items())


def _image_teacher(line: Line, study: StudySpec) -> str:
    """Describe an image teacher and its mask AP."""
    name = line.key.model
    teacher = study.image_teachers[name]
    if teacher.preset is None:
        what = f"{teacher.model} of transformers" if teacher.model else f"labels in {teacher.labels}"
        return f"Image teacher {name}: {what}, for every student{'; ' + line.missing if line.missing else ''}."
    where = "other scenes" if teacher.data.root is None else f"{teacher.data.root}"
    precision, loose = (line.metrics[name].value for name in MASKS)
    scored = line.missing if math.isnan(precision) else f"{precision:.1f}, AP50 {loose:.1f}"
    return (
        f"Image teacher {name}: {teacher.preset}, seed {teacher.seed}, for every student, trained on images of "
        f"{where} ({teacher.data.train_split}); mask AP {scored} (percent, on {teacher.data.eval_split}, objects over "
        f"{SMALLEST_PX} pixels)."
    )


def _loss(name: str, study: StudySpec) -> str:
    """Describe a loss with the fields that the study sets."""
    if name == WARM_START:
        return f"{name} (neck and head start as copies of the teacher's)"
    choice = study.losses[name]
    kind = f"{choice.loss}: " if choice.loss else ""
    return f"{name} ({kind}{', '.join(f'{field} {_values(given)}' for field, given in choice.by_path().items())})"


def _values(given: dict[str, object]) -> str:
    """Format one value, or the values by path with `others` last."""
    texts = {
        path: f"pull {value.pull:g}" if isinstance(value, PullSpec) else str(value) for path, value in given.items()
    }
    if set(given) == {OTHERS}:
        return texts[OTHERS]
    return " / ".join(f"{text} on {path}" for path, text in sorted(texts.items(), key=lambda item: item[0] == OTHERS))


def _set_weights(line: Line) -> str:
    """Format the weights that have set themselves."""
    return ", ".join(f"{name} {mean_text(mean, '{:.3g}')}" for name, mean in line.weights.items())


def published_text(gain: PublishedGain | None, metric: Metric) -> str:
    """Format a published gain with its mark, or its direction."""
    if gain is None:
        return ""
    points = gain.points(metric)
    return f"{points:+.1f}{SIGNS[gain.mark]}" if points is not None else gain.direction(metric) or ""


def _machines(lines: Sequence[Line]) -> dict[str, str]:
    """Assign a letter to every kind of machine of the table."""
    kinds = sorted({kind for line in lines for kind in line.machine.split("; ") if kind})
    return dict(zip(kinds, "abcdefghijklmnopqrstuvwxyz", strict=False))


def number_cell(text: str, value: float | int | None, best: bool = False, jobs: tuple[str, ...] = ()) -> Cell:
    """Make a cell of a number, shown as text and sorted by value."""
    known = None if value is None or math.isnan(value) else float(value)
    return Cell(text, known, best, jobs)


def mean_text(mean: Mean, form: str) -> str:
    """Format a mean, with the standard deviation if there are several seeds; empty if unknown."""
    if math.isnan(mean.value):
        return ""
    return form.format(mean.value) + ("" if math.isnan(mean.std) else " ± " + form.replace("+", "").format(mean.std))


def gain_text(gain: Gain) -> str:
    """Format mean, standard deviation and 95 % CI, as far as known."""
    return f"{mean_text(gain.mean, '{:+.1f}')} {interval_text(gain.low, gain.high)}".rstrip()


def _plain(value: float | int | None, form: str, sign: str = "") -> str:
    return "" if value is None or math.isnan(value) else form.format(value) + sign
