"""How a training run looks: a bar on a terminal, where stderr is none a line as often as the solver's `display`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deeprebirth_caffe.cli.streams import quiet
from deeprebirth_caffe.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from deeprebirth_caffe.engines.base import Score, Snapshot, Step
    from deeprebirth_caffe.training.listening import Listener

MOST = 6
"""How many outputs of a test net are shown."""
STOPPING = "stopping after this iteration, and saving; once more to stop at once, without saving"


def training_progress() -> Listener:
    """What shows a run on this stderr."""
    if quiet() or not sys.stderr.isatty():
        return Lines()
    from rich.console import Console

    return Bar(Console(stderr=True, markup=False, highlight=False, emoji=False))


def note(text: str) -> None:
    """A line for people, on stderr, unless they asked for quiet."""
    if quiet():
        return
    click.echo(printable(text), err=True)


class Lines:
    """A line for each thing that happens, and for each iteration that Caffe would show."""

    def say(self, text: str) -> None:
        """A line about what happens, such as a warning."""
        note(text)

    def stopping(self, signal: str) -> None:
        """A first signal has come."""
        self.say(STOPPING)

    def begin(self, start: int, end: int) -> None:
        """Training starts."""
        self.say(f"training: iterations {start} to {end}")

    def testing(self, iteration: int, index: int) -> None:
        """Nothing: the line comes when the test is done."""

    def tested(self, iteration: int, index: int, scores: Mapping[str, Score]) -> None:
        """A test net has run."""
        self.say(tested_line(iteration, index, scores))

    def stepped(self, step: Step, loss: float, show: bool, left: float | None) -> None:
        """An iteration is done."""
        if show:
            facts = [f"loss {loss:.6g}", *_rate_and_speed(step), *_left(left)]
            self.say(f"iteration {step.iteration}: {', '.join(facts)}")

    def saved(self, snapshot: Snapshot) -> None:
        """A snapshot is on the disk."""
        self.say(f"saved {snapshot.model} and {snapshot.state.name}")

    def end(self) -> None:
        """Nothing more comes."""


class Bar(Lines):
    """One line that moves; tests, snapshots and warnings stand above it."""

    def __init__(self, console: Console) -> None:
        """Args:
        console: where it is drawn.
        """
        self._console = console
        self._progress: Any = None
        self._task: Any = None
        self._loss: list[str] = []
        self._last_test: list[str] = []
        self._rest: list[str] = []

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(printable(text), soft_wrap=True)

    def begin(self, start: int, end: int) -> None:
        """Draws the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        # What does not fit is cut at the end of the text: the count always stands there whole.
        count = MofNCompleteColumn(table_column=Column(no_wrap=True))
        text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, ratio=1))
        self._progress = Progress(BarColumn(bar_width=10), count, text, console=self._console, expand=True)
        self._task = self._progress.add_task("", total=end, completed=start, text="")
        self._progress.start()

    def testing(self, iteration: int, index: int) -> None:
        """Says why the bar stands still."""
        if self._progress is not None:
            self._progress.update(self._task, text=f"testing (net {index})")

    def tested(self, iteration: int, index: int, scores: Mapping[str, Score]) -> None:
        """A test net has run; its accuracy stays in the bar."""
        super().tested(iteration, index, scores)
        name = accuracy_name(scores)
        if not index and name:
            self._last_test = [f"{of_test(printable(name))} {scores[name]:.4f}"]
        if self._progress is not None:
            self._progress.update(self._task, text=self._text)

    def stepped(self, step: Step, loss: float, show: bool, left: float | None) -> None:
        """Moves the bar."""
        self._loss = [f"loss {loss:.6g}"]
        self._rest = [*_left(left), *_rate_and_speed(step)]
        self._progress.update(self._task, completed=step.iteration + 1, text=self._text)

    def end(self) -> None:
        """Leaves the bar as it is."""
        if self._progress is not None:
            self._progress.stop()

    @property
    def _text(self) -> str:
        """What people look at first stands first, for it may be cut."""
        return ", ".join([*self._loss, *self._last_test, *self._rest])


def _rate_and_speed(step: Step) -> list[str]:
    speed = [f"{step.images / step.seconds:.1f} images/s"] if step.images and step.seconds > 0 else []
    return [f"lr {step.lr:.6g}", *speed]


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{clock(seconds)} left"]


def of_test(name: str) -> str:
    """An output of a test net, told from the training net's loss of the same name."""
    return name if name.lower().startswith("test") else f"test {name}"


def tested_line(iteration: int, index: int, scores: Mapping[str, Score]) -> str:
    """The outputs of a test net; of many the last, which are the main head's."""
    net = f"test net {index}" if index else "test"
    shown = [f"{name} {spell_score(value)}" for name, value in list(scores.items())[-MOST:]]
    more = f" and {len(scores) - MOST} more" if len(scores) > MOST else ""
    return f"iteration {iteration}, {net}: {', '.join(shown)}{more}"


def spell_score(value: Score | Sequence[float | None] | None) -> str:
    """The mean of an output blob (None: no number); of one with many elements the first."""
    if not isinstance(value, Sequence):
        return "nan" if value is None else f"{value:.6g}"
    some = ", ".join(map(spell_score, value[:MOST]))
    return f"[{some}{', ...' if len(value) > MOST else ''}]"


def accuracy_name(scores: Mapping[str, object]) -> str:
    """The output that people look at first: of several accuracies the last, which is the main head's."""
    single = [name for name, value in scores.items() if not isinstance(value, Sequence)]
    for words in (("top-1", "top1"), ("acc",), ("",)):
        named = [name for name in single if any(word in name.lower() for word in words)]
        if named:
            return named[-1]
    return ""


def clock(seconds: float) -> str:
    """A time as people write it: 3:05, 2:03:05."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
