"""Which tables a report has: results, what is sure of them, what it is due to, costs, and what papers report."""

import math
from collections.abc import Sequence

from harness.evaluate.mask_ap import SMALLEST_PX
from harness.evidence.attribution import Part
from harness.evidence.effects import Ascribed, foremost
from harness.evidence.line import ERRORS, HEADLINE_METRICS, MASKS, Gain, Key, Line, Mean, by_key, gain_column, line_name
from harness.evidence.results import Cost
from harness.evidence.statistics import POWER
from harness.report.render import Cell, Table
from harness.study.papers import MEANINGS, SIGNS, Metric, Paper, PublishedGain
from harness.study.spec import OTHERS, WARM_START, StudySpec, scored_range

IMAGE_TEACHER = "image teacher"
"""A row that the table does not show, as it has no boxes; the caption speaks of it."""


def results_table(lines: Sequence[Line], study: StudySpec, notes: Sequence[str] = ()) -> Table:
    """Every row of the study, as the papers have it; with notes below the caption."""
    papers = _papers(lines)
    published = [f"{paper} gain {metric}" for paper in papers for metric in HEADLINE_METRICS]
    header = ["row", "seeds", *HEADLINE_METRICS, *ERRORS, "gain mAP", "gain NDS", *published, "parameters"]
    kinds = _machines(lines)
    shown = [line for line in lines if line.key.role != IMAGE_TEACHER]
    best = _best(shown)
    rows: list[list[Cell]] = []
    for line in shown:
        name = line.name
        if len(kinds) > 1 and line.machine:
            name += f" [{', '.join(kinds[kind] for kind in line.machine.split('; '))}]"
        cells = [Cell(name, jobs=line.jobs), Cell(str(line.seeds), line.seeds)]
        if line.missing:
            cells += [Cell(line.missing, jobs=line.jobs), *[Cell("")] * (len(header) - 3)]
            rows.append(cells)
            continue
        for metric in (*HEADLINE_METRICS, *ERRORS):
            mean, form = line.metrics[metric], "{:.1f}" if metric in HEADLINE_METRICS else "{:.3f}"
            cells.append(_cell(mean_text(mean, form), mean.value, (line.key, metric) in best, line.jobs))
        for metric in HEADLINE_METRICS:
            gain = line.gains[metric]
            text = "unpaired" if line.unpaired else gain_text(gain)
            cells.append(_cell(text, gain.mean.value, (line.key, gain_column(metric)) in best, line.jobs))
        for paper in papers:
            reported = line.published.get(paper)
            cells += [
                _cell(published_text(reported, metric), reported.points(metric) if reported else None)
                for metric in HEADLINE_METRICS
            ]
        rows.append([*cells, _cell(_plain(line.parameters, "{:,.0f}"), line.parameters)])
    return Table.of("results", "Results", header, rows, [*caption(lines, study), *notes])


def _best(shown: Sequence[Line]) -> set[tuple[Key, str]]:
    """Lines and columns that no other line of the same student and split is better in, as they are shown."""
    best = set()
    compared = [line for line in shown if line.key.role in ("baseline", "control", "student")]
    for lines in by_key(compared, lambda line: (line.key.model, line.key.split)):
        for name in (*HEADLINE_METRICS, *ERRORS, *map(gain_column, HEADLINE_METRICS)):
            form, better = ("{:.3f}", min) if name in ERRORS else ("{:.1f}", max)
            values = {line.key: line.means[name].value for line in lines}
            rounded = {key: float(form.format(value)) for key, value in values.items() if not math.isnan(value)}
            if len(rounded) > 1:
                top = better(rounded.values())
                best |= {(key, name) for key, value in rounded.items() if value == top}
    return best


def verdicts_table(lines: Sequence[Line], study: StudySpec, unlike: Sequence[str] = ()) -> Table | None:
    """What may be said of each gain, and of what a paper reports; None where no gain is known.

    Args:
        lines: Of the table.
        study: Of which they are.
        unlike: What there is to say of arms whose seeds spread more than others'.
    """
    header = ("row", "metric", "gain", "95 % interval", "p", "p (Holm)", "verdict", "could see", "paper", "against it")
    rows: list[list[Cell]] = []
    family = 0
    for line in lines:
        if line.key.split or not _has_interval(line):
            continue
        paper, published = foremost(line.published)
        for metric, gain in line.gains.items():
            family += not math.isnan(gain.holm)
            reported = published_text(published, metric)
            rows.append(
                [
                    Cell(line.name, jobs=line.jobs),
                    Cell(metric),
                    _cell(_plain(gain.mean.value, "{:+.1f}"), gain.mean.value),
                    _cell(interval_text(gain.low, gain.high), gain.mean.value),
                    _cell(p_text(gain.p), gain.p),
                    _cell(p_text(gain.holm), gain.holm),
                    Cell(gain.verdict),
                    _cell(_plain(gain.detectable, "{:.1f}"), gain.detectable),
                    Cell(f"{paper} {reported}" if reported else ""),
                    Cell(gain.agreement),
                ]
            )
    if not rows:
        return None
    alone = len(study.seeds) < 2
    notes = [
        f"p is two-sided, over {_over(_sampled(_known(lines)))}; (Holm): adjusted for all {family} gains of "
        "the table, of which one in twenty would be below 5 % if nothing had any effect. "
        "Higher or lower: below 5 % when adjusted; looked at alone: below 5 % if this row were the only one."
        + (" With one seed, all of it is about these two models on other scenes, never about a loss." if alone else ""),
        f"Could see: the smallest true gain that such a study finds (p < 5 %, looked at alone) in {POWER:.0%} of "
        "cases; not told apart is no proof that there is nothing.",
    ]
    if any(row[9].text for row in rows):
        notes.append(
            "Against it: whether what a paper reports and what we find agree, where its number or direction "
            "was read for certain; inside: our interval holds its gain."
        )
    return Table.of("verdicts", "What is sure", header, rows, [*notes, *unlike])


def attribution_table(ascribed: Sequence[Ascribed]) -> Table | None:
    """What is due to which loss; None where no design tells."""
    if not ascribed:
        return None
    rows: list[list[Cell]] = []
    for metrics in by_key(ascribed, lambda each: (each.path, each.part.kind, each.part.what, each.part.to)):
        cells = [Cell(metrics[0].path), Cell(part_text(metrics[0].part))]
        for each in sorted(metrics, key=lambda each: HEADLINE_METRICS.index(each.metric)):
            effect = each.part.effect
            text = f"{effect.value:+.1f} {interval_text(effect.low, effect.high)}".rstrip()
            cells += [_cell(text, effect.value), _cell(p_text(each.holm), each.holm)]
        rows.append(cells)
    header = ("path", "what", "mAP", "p (Holm)", "NDS", "p (Holm)")
    kinds = {each.part.kind for each in ascribed}
    effects = [each.part.effect for each in ascribed]
    known = [(effect.seeds, effect.scenes) for effect in effects if not math.isnan(effect.p)]
    notes = ["Points; nothing is known of their errors."]
    if known:
        notes = [f"Points, with 95 % intervals over {_over(known)}; p adjusted for all effects of this table."]
    if max(effect.seeds for effect in effects) == 1:
        notes.append("One seed: they are differences between these trained models, not effects of a loss.")
    if "main effect" in kinds:
        notes.append(
            "Main effect: what a loss adds in the mean over all sets of the others. Interaction: what one adds more "
            "where the other is there. Shapley value: what it adds in the mean over all orders of adding; all add up "
            "to the gain of the whole; no p is asked of it, as it is all but the main effect again."
        )
    if "added" in kinds:
        notes.append(
            "Added: where not every set of losses is an arm with results, what is added from one arm to the next is "
            "all that the arms tell."
        )
    return Table.of("attribution", "What it is due to", header, rows, notes)


def part_text(part: Part) -> str:
    """An effect, in words; losses are joined by a +."""
    if part.to is not None:
        return f"{'+'.join(part.what)}, added to {'+'.join(part.to)}"
    return f"{part.kind} of {' and '.join(part.what)}"


def p_text(p: float) -> str:
    """Two digits, three where they tell on which side of 5 % it is, and of what is small no more than that it is."""
    if math.isnan(p):
        return ""
    if 0.045 <= p < 0.055:
        return f"{p:.3g}"
    return "< 0.0001" if p < 0.0001 else f"{p:.2f}" if p >= 0.1 else f"{p:.2g}" if p >= 0.001 else f"{p:.4f}"


def interval_text(low: float, high: float) -> str:
    """Its ends; empty where it is not known."""
    return "" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"


def published_table(paper: Paper) -> Table:
    """What a paper reports, each number with its mark."""
    header = ["row", "dataset", *HEADLINE_METRICS, *ERRORS, "source"]
    rows: list[list[Cell]] = []
    for row in paper.rows:
        numbers: list[Cell] = []
        for metric in (*HEADLINE_METRICS, *ERRORS):
            value = getattr(row, metric)
            form = "{:.1f}" if metric in HEADLINE_METRICS else "{:.3f}"
            numbers.append(_cell(_plain(value, form, SIGNS[row.mark]), value))
        rows.append([Cell(row.label), Cell(row.dataset), *numbers, Cell(row.source)])
    used = {SIGNS[row.mark] for row in paper.rows}
    notes = [*paper.notes, *(meaning for sign, meaning in MEANINGS.items() if sign in used)]
    title = f"Published: {paper.name} ({paper.venue}, arXiv {paper.arxiv})"
    return Table.of(f"published-{paper.name.lower()}", title, header, rows, notes)


def cost_table(costs: Sequence[Cost]) -> Table:
    """What each training cost, which differs from machine to machine and from run to run."""
    header = ["row", "seeds", "parameters", "inference (ms)", "step (ms)", "minutes", "CPU-minutes", "peak memory (MB)"]
    rows = [
        [
            Cell(line_name(cost.role, cost.model, cost.path, cost.arm)),
            Cell(str(cost.seeds), cost.seeds),
            _cell(_plain(cost.parameters, "{:,.0f}"), cost.parameters),
            _cell(_plain(cost.latency_ms, "{:.1f}"), cost.latency_ms),
            _cell(_plain(cost.step_ms, "{:.0f}"), cost.step_ms),
            _cell(_plain(cost.minutes, "{:.1f}"), cost.minutes),
            _cell(_plain(cost.cpu_minutes, "{:.1f}"), cost.cpu_minutes),
            _cell(_plain(cost.peak_memory_mb, "{:.0f}"), cost.peak_memory_mb),
        ]
        for cost in costs
    ]
    notes = [
        "Training and scoring together, in means over seeds; of steps the median time, of memory the largest.",
        "Inference is from one sample to its boxes, the median over samples; the machine may have had other work.",
    ]
    return Table.of("cost", "Cost", header, rows, notes)


def caption(lines: Sequence[Line], study: StudySpec) -> list[str]:
    """What a reader has to know about every number of the table."""
    data, schedule = study.data, study.schedule
    ranges = (
        "nuScenes' class ranges (50, 40, 30 m)"
        if data.detection_config == "nuscenes"
        else f"nuScenes' metrics with class ranges cut at {scored_range(data.detection_config)} m"
    )
    length = f"{schedule.steps} steps" if schedule.epochs is None else f"{schedule.epochs:g} epochs"
    sentences = [
        f"Scored on {data.version} {data.eval_split}, trained on {data.train_split}; {ranges}; students: "
        f"{length} of batch {schedule.batch_size}, learning rate {schedule.lr:g}; "
        f"seeds {', '.join(map(str, study.seeds))}.",
        "mAP, NDS and gains in points; errors as nuScenes defines them, smaller is better; ± is the standard deviation "
        "over seeds. A gain is over the same student and seed trained without a teacher.",
    ]
    sentences += interval_notes(lines)
    sentences += [_teacher(name, study) for name in study.teachers if name not in study.unused_teachers]
    sentences += [_image_teacher(line, study) for line in lines if line.key.role == IMAGE_TEACHER]
    if used := dict.fromkeys(name for losses in study.arms.values() for name in losses):
        sentences.append(f"Arms are made of {'; '.join(_loss(name, study) for name in used)}.")
    # One that says in its name what it is made of needs no more words.
    sentences += [f"{arm}: {', '.join(losses)}." for arm, losses in study.arms.items() if arm != "+".join(losses)]
    if schedule.distillation_warmup and study.paths:
        sentences.append(
            f"The losses' weights grow from 0 in the first {schedule.distillation_warmup:.0%} of the training."
        )
    if _published_gains(lines) and any(WARM_START in losses for losses in study.arms.values()):
        sentences.append("The papers' students do not begin as copies of a teacher.")
    if data.root is None:
        sentences.append("These are numbers of the embedded synthetic world, not of nuScenes.")
    if published := _published_gains(lines):
        marks = {SIGNS[gain.mark] for gain in published}
        signs = [meaning for sign, meaning in MEANINGS.items() if sign in marks]
        sentences.append(
            " ".join(["Columns of a paper: the gain it reports on nuScenes for such a path and losses.", *signs])
        )
    if data.also_score:
        sentences.append(
            f"Rows that name a split ({', '.join(data.also_score)}) are the same models scored on it; "
            f"on {data.train_split} they show what was learned by heart, not a result."
        )
    if data.train_split == data.eval_split:
        sentences.append("Scored on the samples it was trained on: a check of the plumbing, not a result.")
    sentences += [f"{line.name}: no gain, for {line.unpaired}." for line in lines if line.unpaired]
    sentences += [f"{line.name}: doubtful: {line.warning}." for line in lines if line.warning]
    kinds = _machines(lines)
    if len(kinds) > 1:
        named = "; ".join(f"[{letter}] {kind}" for kind, letter in kinds.items())
        sentences.append(f"Made on more than one kind of machine, which alone changes numbers a little: {named}.")
    return sentences


def interval_notes(lines: Sequence[Line]) -> list[str]:
    """What the brackets behind gains say; nothing where no gain has an interval."""
    known = _known(lines)
    if not known:
        return []
    over = _over(_sampled(known))
    means = {
        "seeds and scenes": ": where other seeds and other scenes of this kind would put it",
        "scenes": ". One seed: it speaks of these two models on other scenes, not of the loss",
        "seeds": "; of scenes there are too few to speak of others, or runs without draws of them",
    }[over]
    return [f"In brackets: the 95 % interval of the mean gain over {over}{means}."]


def _has_interval(line: Line) -> bool:
    return not all(math.isnan(gain.low) for gain in line.gains.values())


def _known(lines: Sequence[Line]) -> list[Line]:
    """The lines whose gain has an interval; on the evaluation split, where there are any."""
    known = [line for line in lines if _has_interval(line)]
    return [line for line in known if not line.key.split] or known


def _sampled(lines: Sequence[Line]) -> list[tuple[int, float | int]]:
    return [(line.seeds, line.scenes) for line in lines]


def _over(sampled: Sequence[tuple[int, float | int]]) -> str:
    """What the intervals of effects, by their numbers of seeds and of scenes, are over."""
    varies = {"seeds": max(seeds for seeds, _ in sampled) > 1, "scenes": all(scenes > 0 for _, scenes in sampled)}
    return " and ".join(name for name, is_so in varies.items() if is_so)


def _teacher(name: str, study: StudySpec) -> str:
    """Which teacher of that name the students learned from."""
    teacher = study.teachers[name]
    if teacher.checkpoint is not None:
        return f"Teacher {name}: the same given weights for every student."
    state = "" if teacher.trained else ", untrained (a control)"
    if teacher.seed == "paired":
        return f"Teacher {name}: for every student the one of its own seed{state}."
    return f"Teacher {name}: the one of seed {teacher.seed} for every student{state}."


def _image_teacher(line: Line, study: StudySpec) -> str:
    """What an image teacher is, and how good."""
    name = line.key.model
    teacher = study.image_teachers[name]
    if teacher.preset is None:
        what = f"{teacher.model} of transformers" if teacher.model else f"labels in {teacher.labels}"
        return f"Image teacher {name}: {what}, for every student{'; ' + line.missing if line.missing else ''}."
    where = "other scenes" if teacher.data.root is None else f"{teacher.data.root}"
    precision, loose = (line.metrics[name].value for name in MASKS)
    scored = line.missing if math.isnan(precision) else f"{precision:.1f}, AP50 {loose:.1f}"
    return (
        f"Image teacher {name}: {teacher.preset} of seed {teacher.seed} for every student, trained on images of "
        f"{where} ({teacher.data.train_split}); mask AP {scored} (points, on {teacher.data.eval_split}, objects over "
        f"{SMALLEST_PX} pixels)."
    )


def _loss(name: str, study: StudySpec) -> str:
    """A loss with the fields that the study sets."""
    if name == WARM_START:
        return f"{name} (neck and head begin as copies of the teacher's)"
    choice = study.losses[name]
    kind = f"{choice.loss}: " if choice.loss else ""
    return f"{name} ({kind}{', '.join(f'{field} {_values(given)}' for field, given in choice.by_path().items())})"


def _values(given: dict[str, object]) -> str:
    """One value, or those by path, whatever is left last."""
    if set(given) == {OTHERS}:
        return str(given[OTHERS])
    return " / ".join(f"{value} on {path}" for path, value in sorted(given.items(), key=lambda item: item[0] == OTHERS))


def _papers(lines: Sequence[Line]) -> list[str]:
    """Those that report a number, or a direction, for any line."""
    return list(dict.fromkeys(name for line in lines for name in line.published))


def _published_gains(lines: Sequence[Line]) -> list[PublishedGain]:
    return [gain for line in lines for gain in line.published.values()]


def published_text(gain: PublishedGain | None, metric: Metric) -> str:
    """A published gain with its mark, or its direction."""
    if gain is None:
        return ""
    points = gain.points(metric)
    return f"{points:+.1f}{SIGNS[gain.mark]}" if points is not None else gain.direction(metric) or ""


def _machines(lines: Sequence[Line]) -> dict[str, str]:
    """Every kind of machine of the table, with a letter to name it."""
    kinds = sorted({kind for line in lines for kind in line.machine.split("; ") if kind})
    return dict(zip(kinds, "abcdefghijklmnopqrstuvwxyz", strict=False))


def _cell(text: str, value: float | int | None, best: bool = False, jobs: tuple[str, ...] = ()) -> Cell:
    """A number as it is shown, and as it is sorted."""
    known = None if value is None or math.isnan(value) else float(value)
    return Cell(text, known, best, jobs)


def mean_text(mean: Mean, form: str) -> str:
    """Mean, and the standard deviation over seeds where there are several; empty where nothing is to be said."""
    if math.isnan(mean.value):
        return ""
    return form.format(mean.value) + ("" if math.isnan(mean.std) else " ± " + form.replace("+", "").format(mean.std))


def gain_text(gain: Gain) -> str:
    """As `mean_text`, with its interval where it is known."""
    return f"{mean_text(gain.mean, '{:+.1f}')} {interval_text(gain.low, gain.high)}".rstrip()


def _plain(value: float | int | None, form: str, sign: str = "") -> str:
    return "" if value is None or math.isnan(value) else form.format(value) + sign
