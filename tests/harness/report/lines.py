"""Lines of a table, made by hand."""

from harness.evidence.line import Gain, Key, Line, Mean

NAN = float("nan")


def line(name, mAP, NDS, published=None, verdict=""):
    """A student's line with gains (value, low, high)."""
    gains = {
        metric: Gain(Mean(value, NAN), 12, low, high, verdict=verdict)
        for metric, (value, low, high) in {"mAP": map(float, mAP), "NDS": map(float, NDS)}.items()
    }
    path, _, arm = name.rpartition(" ")
    key = Key("student", "camera", path, arm, arm, "")
    return Line(key, NAN, {"paper": published} if published else {}, "", "", "", "", {}, gains, 12, 1, ("0" * 16,))
