"""Figures, of which drawing takes more than half the time of a diagnostic on a tiny model."""

from pathlib import Path

from matplotlib.figure import Figure

savefig = Figure.savefig


def draw_once():
    """A `Figure.savefig` that draws one figure of each file name and number of axes.

    Later ones are its copies. A test that looks at a figure takes the fixture `each_figure`.
    """
    drawn = {}

    def save(figure, path, **options):
        kind = Path(path).name, len(figure.axes)
        if kind in drawn:
            Path(path).write_bytes(drawn[kind])
            return
        savefig(figure, path, **options)
        drawn[kind] = Path(path).read_bytes()

    return save
