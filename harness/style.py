"""The common look of all figures: ink, colours that colour-blind readers can distinguish, dashes and quiet axes."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2328"
"""The colour of lines and words; on a page it becomes the colour of the text, and so is seen on dark ground, too."""
FAINT = "#1f2328b3"
GRID = "#1f232822"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's (2008), told apart by colour-blind readers; without its black and its yellow, which one of two
grounds would swallow."""
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY = PALETTE
Dashes = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 1.6, 1.2, 1.6)))
NIGHT = {"paper": "#0d1117", "ground": "#11161f", "ring": "#2d3748", "ink": "#e6edf3", "faint": "#8b98a9"}
"""Colours of pictures of samples, whose points and images are seen best on dark ground."""


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained", ground: str = "none"
) -> "Figure":
    """An empty figure, so many inches in size; by default nothing is behind it."""
    # It takes half a second to import, which a report whose figures are drawn already need not wait.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor=ground)


def quiet(axes: "Axes", grid: Literal["x", "y", "both"]) -> None:
    """Leave little that is not data: a faint grid, and a line at the bottom alone."""
    axes.patch.set_alpha(0)
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8, colors=INK)


def plain(text: str) -> str:
    """A text in which a $ of a user's begins no formula."""
    return text.replace("$", r"\$")
