"""Which tables a report has: results, what is sure of them, what it is due to, costs, and what papers report."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.evaluate.mask_ap import SMALLEST_PX
from harness.evidence import line
from harness.evidence.effects import POINTS, Attribution, attribution_frame, foremost
from harness.evidence.results import COSTS, ERRORS, GAINS
from harness.evidence.statistics import POWER
from harness.report.table import Cell, Table
from harness.study.papers import MEANINGS, SIGNS, Metric, Paper, PublishedGain
from harness.study.spec import OTHERS, WARM_START, StudySpec, scored_range

IMAGE_TEACHER = "image teacher"
"""A row that the table does not show, as it has no boxes; the caption speaks of it."""
Line = Mapping[Hashable, Any]
"""Of a summary."""


def results_table(summary: pd.DataFrame, study: StudySpec, notes: Sequence[str] = ()) -> Table:
    """Every row of the study, as the papers have it; with notes below the caption."""
    papers = _papers(summary)
    published = [f"{paper} gain {metric}" for paper in papers for metric in POINTS]
    header = ["row", "seeds", *POINTS, *ERRORS, "gain mAP", "gain NDS", *published, "parameters"]
    kinds = _machines(summary)
    shown = summary[summary["role"] != IMAGE_TEACHER]
    best = _best(shown)
    found: list[list[Cell]] = []
    for number, row in zip(shown.index, shown.to_dict("records"), strict=True):
        jobs = tuple(row["jobs"])
        name = line_name(row)
        if len(kinds) > 1 and row["machine"]:
            name += f" [{', '.join(kinds[kind] for kind in row['machine'].split('; '))}]"
        cells = [Cell(name, jobs=jobs), Cell(str(row["seeds"]), row["seeds"])]
        if row["missing"]:
            cells += [Cell(row["missing"], jobs=jobs), *[Cell("")] * (len(header) - 3)]
            found.append(cells)
            continue
        for metric in (*POINTS, *ERRORS):
            form = "{:.1f}" if metric in POINTS else "{:.3f}"
            cells.append(_cell(_number(row, metric, form), row[metric], (number, metric) in best, jobs))
        for metric in GAINS:
            text = "unpaired" if row["unpaired"] else _gain(row, metric)
            cells.append(_cell(text, row[metric], (number, metric) in best, jobs))
        for paper in papers:
            gain = row["published"].get(paper)
            cells += [_cell(published_text(gain, metric), gain and gain.points(metric)) for metric in POINTS]
        found.append([*cells, _cell(_plain(row["parameters"], "{:,.0f}"), row["parameters"])])
    return Table.of("results", "Results", header, found, [*caption(summary, study), *notes])


def _best(shown: pd.DataFrame) -> set[tuple[Hashable, str]]:
    """Lines and metrics that no other line of the same student and split is better in, as they are shown."""
    found = set()
    students = shown[shown["role"].isin(["baseline", "control", "student"])]
    for _, lines in students.groupby(["model", "split"], sort=False):
        for metric in (*POINTS, *ERRORS, *GAINS):
            shown_as = "{:.3f}" if metric in ERRORS else "{:.1f}"
            rounded = lines[metric].dropna().map(shown_as.format).astype(float)
            if len(rounded) > 1:
                top = rounded.min() if metric in ERRORS else rounded.max()
                found |= {(number, metric) for number in rounded.index[rounded == top]}
    return found


def verdicts_table(summary: pd.DataFrame, study: StudySpec, unlike: Sequence[str] = ()) -> Table | None:
    """What may be said of each gain, and of what a paper reports; None where no gain is known.

    Args:
        summary: Lines.
        study: Of which they are.
        unlike: What there is to say of arms whose seeds spread more than others'.
    """
    header = ("row", "metric", "gain", "95 % interval", "p", "p (Holm)", "verdict", "could see", "paper", "against it")
    rows: list[list[Cell]] = []
    family = 0
    for row in summary.to_dict("records"):
        if row["split"] or all(math.isnan(row[f"{gain}_low"]) for gain in GAINS):
            continue
        paper, published = foremost(row["published"])
        for metric in POINTS:
            of = {name: row[f"gain_{metric}_{name}"] for name in ("low", "high", "p", "holm", "detectable")}
            value = row[f"gain_{metric}"]
            family += not math.isnan(of["holm"])
            told = published_text(published, metric)
            rows.append(
                [
                    Cell(line_name(row), jobs=tuple(row["jobs"])),
                    Cell(metric),
                    _cell(_plain(value, "{:+.1f}"), value),
                    _cell(interval_text(of["low"], of["high"]), value),
                    _cell(p_text(of["p"]), of["p"]),
                    _cell(p_text(of["holm"]), of["holm"]),
                    Cell(row[f"gain_{metric}_verdict"]),
                    _cell(_plain(of["detectable"], "{:.1f}"), of["detectable"]),
                    Cell(f"{paper} {told}" if told else ""),
                    Cell(row[f"gain_{metric}_agreement"]),
                ]
            )
    if not rows:
        return None
    alone = len(study.seeds) < 2
    notes = [
        f"p is two-sided, over {_over(_known(summary))}; (Holm): adjusted for all {family} gains of "
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


def attribution_table(found: Sequence[Attribution]) -> Table | None:
    """What is due to which loss; None where no design tells."""
    frame = attribution_frame(found)
    if frame.empty:
        return None
    rows: list[list[Cell]] = []
    for names, pair in frame.groupby(["path", "kind", "what", "to"], sort=False):
        path, kind, what, to = map(str, names)
        cells = [Cell(path), Cell(part_text(kind, what, to))]
        for effect in pair.set_index("metric").loc[list(POINTS)].to_dict("records"):
            text = f"{effect['effect']:+.1f} {interval_text(effect['low'], effect['high'])}".rstrip()
            cells.append(_cell(text, effect["effect"]))
            cells.append(_cell(p_text(effect["holm"]), effect["holm"]))
        rows.append(cells)
    header = ("path", "what", "mAP", "p (Holm)", "NDS", "p (Holm)")
    kinds = set(frame["kind"])
    effects = [part.effect for each in found for parts in each.parts.values() for part in parts]
    known = pd.DataFrame([{"seeds": e.seeds, "scenes": e.scenes} for e in effects if not math.isnan(e.p)])
    notes = ["Points; nothing is known of their errors."]
    if len(known):
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


def part_text(kind: str, what: str, to: str) -> str:
    """An effect, in words; losses are joined by a +."""
    if kind == "added":
        return f"{what}, added to {to or 'nothing'}"
    return f"{kind} of {what.replace('+', ' and ')}"


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
    header = ["row", "dataset", *POINTS, *ERRORS, "source"]
    rows: list[list[Cell]] = []
    for row in paper.rows:
        numbers: list[Cell] = []
        for metric in (*POINTS, *ERRORS):
            value = getattr(row, metric)
            form = "{:.1f}" if metric in POINTS else "{:.3f}"
            numbers.append(_cell(_plain(value, form, SIGNS[row.mark]), value))
        rows.append([Cell(row.label), Cell(row.dataset), *numbers, Cell(row.source)])
    used = {SIGNS[row.mark] for row in paper.rows}
    notes = [*paper.notes, *(meaning for sign, meaning in MEANINGS.items() if sign in used)]
    title = f"Published: {paper.name} ({paper.venue}, arXiv {paper.arxiv})"
    return Table.of(f"published-{paper.name.lower()}", title, header, rows, notes)


def cost_table(cost: pd.DataFrame) -> Table:
    """What each training cost, which differs from machine to machine and from run to run."""
    header = ["row", "seeds", "parameters", "inference (ms)", "step (ms)", "minutes", "CPU-minutes", "peak memory (MB)"]
    forms = ("{:,.0f}", "{:.1f}", "{:.0f}", "{:.1f}", "{:.1f}", "{:.0f}")
    rows = [
        [
            Cell(line_name(row)),
            Cell(str(row["seeds"]), row["seeds"]),
            *(_cell(_plain(row[name], form), row[name]) for name, form in zip(COSTS, forms, strict=True)),
        ]
        for row in cost.to_dict("records")
    ]
    notes = [
        "Training and scoring together, in means over seeds; of steps the median time, of memory the largest.",
        "Inference is from one sample to its boxes, the median over samples; the machine may have had other work.",
    ]
    return Table.of("cost", "Cost", header, rows, notes)


def caption(summary: pd.DataFrame, study: StudySpec) -> list[str]:
    """What a reader has to know about every number of the table."""
    data, schedule = study.data, study.schedule
    ranges = (
        "nuScenes' class ranges (50, 40, 30 m)"
        if data.detection_config == "nuscenes"
        else f"nuScenes' metrics with class ranges cut at {scored_range(data.detection_config)} m"
    )
    length = f"{schedule.steps} steps" if schedule.epochs is None else f"{schedule.epochs:g} epochs"
    lines = [
        f"Scored on {data.version} {data.eval_split}, trained on {data.train_split}; {ranges}; students: "
        f"{length} of batch {schedule.batch_size}, learning rate {schedule.lr:g}; "
        f"seeds {', '.join(map(str, study.seeds))}.",
        "mAP, NDS and gains in points; errors as nuScenes defines them, smaller is better; ± is the standard deviation "
        "over seeds. A gain is over the same student and seed trained without a teacher.",
    ]
    lines += _what_intervals_say(summary)
    lines += [_teacher(name, study) for name in study.teachers if name not in study.unused_teachers]
    lines += [_image_teacher(row, study) for row in summary[summary["role"] == IMAGE_TEACHER].to_dict("records")]
    if used := dict.fromkeys(name for losses in study.arms.values() for name in losses):
        lines.append(f"Arms are made of {'; '.join(_loss(name, study) for name in used)}.")
    # One that says in its name what it is made of needs no more words.
    lines += [f"{arm}: {', '.join(losses)}." for arm, losses in study.arms.items() if arm != "+".join(losses)]
    if schedule.distillation_warmup and study.paths:
        lines.append(
            f"The losses' weights grow from 0 in the first {schedule.distillation_warmup:.0%} of the training."
        )
    if _published_gains(summary) and any(WARM_START in losses for losses in study.arms.values()):
        lines.append("The papers' students do not begin as copies of a teacher.")
    if data.root is None:
        lines.append("These are numbers of the embedded synthetic world, not of nuScenes.")
    if published := _published_gains(summary):
        marks = {SIGNS[gain.mark] for gain in published}
        signs = [meaning for sign, meaning in MEANINGS.items() if sign in marks]
        lines.append(
            " ".join(["Columns of a paper: the gain it reports on nuScenes for such a path and losses.", *signs])
        )
    if data.also_score:
        lines.append(
            f"Rows that name a split ({', '.join(data.also_score)}) are the same models scored on it; "
            f"on {data.train_split} they show what was learned by heart, not a result."
        )
    if data.train_split == data.eval_split:
        lines.append("Scored on the samples it was trained on: a check of the plumbing, not a result.")
    for row in summary[summary["unpaired"] != ""].to_dict("records"):
        lines.append(f"{line_name(row)}: no gain, for {row['unpaired']}.")
    for row in summary[summary["warning"] != ""].to_dict("records"):
        lines.append(f"{line_name(row)}: doubtful: {row['warning']}.")
    kinds = _machines(summary)
    if len(kinds) > 1:
        named = "; ".join(f"[{letter}] {kind}" for kind, letter in kinds.items())
        lines.append(f"Made on more than one kind of machine, which alone changes numbers a little: {named}.")
    return lines


def _what_intervals_say(summary: pd.DataFrame) -> list[str]:
    """Of the brackets behind gains."""
    known = _known(summary)
    if known.empty:
        return []
    over = _over(known)
    means = {
        "seeds and scenes": ": where other seeds and other scenes of this kind would put it",
        "scenes": ". One seed: it speaks of these two models on other scenes, not of the loss",
        "seeds": "; of scenes there are too few to speak of others, or runs without draws of them",
    }[over]
    return [f"In brackets: the 95 % interval of the mean gain over {over}{means}."]


def _known(summary: pd.DataFrame) -> pd.DataFrame:
    """The lines whose gain has an interval; on the evaluation split, where there are any."""
    known = summary[summary[[f"{gain}_low" for gain in GAINS]].notna().any(axis=1)]
    own = known[known["split"] == ""]
    return known if own.empty else own


def _over(known: pd.DataFrame) -> str:
    """What the intervals of effects, by their columns seeds and scenes, are over."""
    sampled = {"seeds": known["seeds"].max() > 1, "scenes": (known["scenes"] > 0).all()}
    return " and ".join(name for name, varies in sampled.items() if varies)


def _teacher(name: str, study: StudySpec) -> str:
    """Which teacher of that name the students learned from."""
    teacher = study.teachers[name]
    if teacher.checkpoint is not None:
        return f"Teacher {name}: the same given weights for every student."
    state = "" if teacher.trained else ", untrained (a control)"
    if teacher.seed == "paired":
        return f"Teacher {name}: for every student the one of its own seed{state}."
    return f"Teacher {name}: the one of seed {teacher.seed} for every student{state}."


def _image_teacher(row: dict, study: StudySpec) -> str:
    """What an image teacher is, and how good."""
    name = row["model"]
    teacher = study.image_teachers[name]
    if teacher.preset is None:
        what = f"{teacher.model} of transformers" if teacher.model else f"labels in {teacher.labels}"
        return f"Image teacher {name}: {what}, for every student{'; ' + row['missing'] if row['missing'] else ''}."
    where = "other scenes" if teacher.data.root is None else f"{teacher.data.root}"
    scored = f"{row['mask_AP']:.1f}, AP50 {row['mask_AP50']:.1f}" if not math.isnan(row["mask_AP"]) else row["missing"]
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


def _papers(summary: pd.DataFrame) -> list[str]:
    """Those that report a number, or a direction, for any line."""
    return list(dict.fromkeys(name for gains in summary["published"] for name in gains))


def _published_gains(summary: pd.DataFrame) -> list[PublishedGain]:
    return [gain for gains in summary["published"] for gain in gains.values()]


def published_text(gain: PublishedGain | None, metric: Metric) -> str:
    """A published gain with its mark, or its direction."""
    if gain is None:
        return ""
    points = gain.points(metric)
    return f"{points:+.1f}{SIGNS[gain.mark]}" if points is not None else gain.direction(metric) or ""


def _machines(summary: pd.DataFrame) -> dict[str, str]:
    """Every kind of machine of the table, with a letter to name it."""
    kinds = sorted({kind for text in summary["machine"] for kind in text.split("; ") if kind})
    return dict(zip(kinds, "abcdefghijklmnopqrstuvwxyz", strict=False))


def line_name(row: Line) -> str:
    """What a table calls a line."""
    return line.line_name(row["role"], row["model"], row["path"], row["arm"], row.get("split", ""))


def _cell(text: str, value: float | int | None, best: bool = False, jobs: tuple[str, ...] = ()) -> Cell:
    """A number as it is shown, and as it is sorted."""
    known = None if value is None or math.isnan(value) else float(value)
    return Cell(text, known, best, jobs)


def _number(row: Line, metric: str, form: str) -> str:
    """Mean, and the standard deviation over seeds where there are several; empty where nothing is to be said."""
    mean, std = row[metric], row[f"{metric}_std"]
    if math.isnan(mean):
        return ""
    return form.format(mean) + ("" if math.isnan(std) else " ± " + form.replace("+", "").format(std))


def _gain(row: Line, metric: str) -> str:
    """As `_number`, with its interval where it is known."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{_number(row, metric, '{:+.1f}')} {interval_text(low, high)}".rstrip()


def _plain(value: float | int | None, form: str, sign: str = "") -> str:
    return "" if value is None or math.isnan(value) else form.format(value) + sign
