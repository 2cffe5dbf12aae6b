"""An interpreter examined: the paper's figures and tables, controls and cases, as sections."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recjax.errors import InputError
from recjax.frozen import holds_sequences, popular
from recjax.interpreter.judge import Ballot, Judge, hold
from recjax.interpreter.measure import (
    Recovery,
    Residual,
    measure,
    popularity_recovery,
)
from recjax.interpreter.oracle import (
    check_generative,
    generate_oracles,
    measure_oracles,
    nearest_titles,
)
from recjax.interpreter.reader import DECODINGS, Answer, Decoding
from recjax.interpreter.run import InterpreterRun
from recjax.ranges import Checked, Seed
from recjax.report.sections import (
    Bars,
    Case,
    Cases,
    Item,
    Number,
    Section,
    Table,
    Text,
)
from recjax.text.tasks import RESIDUAL, Task
from recjax.typing import Params

_CASES = 6
_ERRORS = 15


@dataclasses.dataclass(frozen=True)
class StudyConfig(Checked):
    """The examinations beyond greedy decoding.

    Attributes:
        split: "validation" or "test".
        decodings: of `DECODINGS`; greedy decoding always comes first.
        controls: shuffled states, an untrained encoder, an untrained adapter.
        oracle: a generative recommender's oracle items, too.
        judge: of recommendations: random, those of `versus`, and oracle items.
        versus: what another recommender recommends: [B W] histories -> [B] items.
        seed: of shuffles, untrained weights, oracle items and ballots.
    """

    split: Any = "test"
    decodings: tuple[Decoding, ...] = ("greedy",)
    controls: bool = False
    oracle: bool = False
    judge: Judge | None = None
    versus: tuple[str, Callable[[np.ndarray], np.ndarray]] | None = None
    seed: Seed = 0

    def __post_init__(self):
        super().__post_init__()
        for name in self.decodings:
            if name not in DECODINGS:
                raise InputError(
                    f"--decoding: no '{name}'; expected some of {', '.join(DECODINGS)}"
                )
        if self.judge is not None and not (self.oracle and self.versus):
            raise InputError("a judge compares oracle items with another recommender's choice")


def deranged(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation [count] without fixed points: one cycle through all indices.

    Raises:
        InputError: `count` is less than two.
    """
    if count < 2:
        raise InputError(f"controls: {count} window to shuffle; expected at least 2")
    order, out = rng.permutation(count), np.empty(count, np.int64)
    out[order] = np.roll(order, 1)
    return out


class Study:
    """Examines an interpreter.

    Where the split holds out targets and not whole sequences, "windows", which end anywhere in one,
    would be "sequences", the newest windows, and are left out.

    Args:
        run: of the interpreter.
        params: of its adapter.
        config: what to examine.

    Raises:
        InputError: oracle items of a recommender that generates none, or without the residual
            question.
    """

    def __init__(self, run: InterpreterRun, params: Params, config: StudyConfig):
        if config.oracle:
            check_generative(run)
            if RESIDUAL not in run.config.ask.tasks:
                raise InputError(f"oracle items need config.ask.{RESIDUAL}: it asks what was added")
        self._run, self._params, self._config = run, params, config
        self._reader = run.reader(params)
        self._parts = {"sequences": run.windows(config.split, newest=True)}
        if holds_sequences(run.recommender):
            self._parts["windows"] = run.sample(run.windows(config.split, newest=False))
        self._last = list(self._parts)[-1]  # of controls and errors
        self.metrics: dict[str, float] = {}

    def examine(self) -> list[Section]:
        """All sections, in order; `metrics` has the figures by name afterwards."""
        config = self._config
        tasks = self._run.config.ask.tasks
        sections: list[Section] = []
        decodings = tuple(dict.fromkeys(("greedy", *config.decodings)))
        greedy: dict[tuple[Task, str], list[Answer]] = {}
        for task in tasks:
            measured: dict[tuple[str, str], Any] = {}
            for decoding in decodings:
                for part, windows in self._parts.items():
                    answers = self._run.ask(self._reader, windows, task, decoding)
                    greedy.setdefault((task, part), answers)
                    measured[decoding, part] = measure(task, answers, windows)
            sections += (self._lists if task.lists else self._newest)(task, measured)
        if config.controls:
            sections.append(self._controls(tasks))
        sections += self._cases(greedy)
        for task in tasks:
            if not task.lists:
                sections.append(self._errors(greedy[task, self._last]))
        sections += self._filter()
        if config.oracle:
            sections += self._oracle()
        return sections

    def _note(self, name: str, values: dict[str, float]) -> None:
        prefix = f"{self._config.split}/{name}"
        self.metrics |= {f"{prefix}/{key}": float(value) for key, value in values.items()}

    def _newest(self, task: Task, measures: dict[tuple[str, str], Residual]) -> list[Section]:
        """The accuracy on newest items, beside that of the most popular item."""
        rows: list[list[Any]] = []
        for (decoding, part), residual in measures.items():
            low, high = residual.interval
            values = {**residual.metrics(), "accuracy_low": low, "accuracy_high": high}
            self._note(f"{part}/{task}/{decoding}", values)
            accuracy, strict, outside = residual.metrics().values()
            rows.append([decoding, part, len(residual.right), accuracy, low, high, strict, outside])
        trained = self._run.windows("train", newest=True)
        (top,) = popular(trained, self._run.store.n_items, 1)
        for part, windows in self._parts.items():
            same = [self._run.names[item] == self._run.names[top] for item in windows.newest]
            share = float(np.mean(same))
            self._note(f"{part}/{task}/popular", {"accuracy": share})
            rows.append(["(most popular item)", part, len(same), share, None, None, share, 0.0])
        columns = ["decoding", "measured on", "n", "accuracy", "95 % from", "to"]
        columns += ["strict", "outside"]
        note = (
            "Which item the second history has more. Sequences: the newest window of each; "
            "windows: such that end anywhere. Titles are compared after normalisation, in 'strict' "
            "letter by letter; 'outside': no title of the catalogue was said."
        )
        return [Table("Residual accuracy (Table 2)", columns, rows, note)]

    def _lists(self, task: Task, measures: dict[tuple[str, str], Recovery]) -> list[Section]:
        """The recovery of histories, beside that of as many popular items."""
        trained = self._run.windows("train", newest=True)
        window = self._run.config.ask.window
        best = popular(trained, self._run.store.n_items, window)
        series: dict[str, list[Number]] = {}
        rows: list[list[Any]] = []
        for (decoding, part), recovery in measures.items():
            self._note(f"{part}/{task}/{decoding}", recovery.metrics())
            rows.append([decoding, part, len(recovery.counts), *recovery.metrics().values()])
            if part == "sequences":
                series[decoding] = recovery.distribution.tolist()
        for part, windows in self._parts.items():
            baseline = popularity_recovery(best, windows)
            self._note(f"{part}/{task}/popular", baseline.metrics())
            name = f"({window} most popular)"
            rows.append([name, part, len(baseline.counts), *baseline.metrics().values()])
            if part == "sequences":
                series["popularity"] = baseline.distribution.tolist()
        columns = ["decoding", "measured on", "n", "items", "strict"]
        columns += ["none", "> 3", "> 5", "outside"]
        return [
            Bars(
                "Recovered items a sequence (Figure 4)",
                [str(n) for n in range(window + 1)],
                series,
                percent=True,
                note="Share of the sequences by how many different items of theirs are named.",
            ),
            Table(
                "Recovery", columns, rows,
                "Items: mean number of different items that are named; none, > 3, > 5: shares of "
                "the sequences; outside: share of the titles said that the catalogue has not.",
            ),
        ]  # fmt: skip

    def _controls(self, tasks: Sequence[Task]) -> Table:
        """The scores for states without information: they must not exceed popularity's.

        After shuffling no history has its own states, but it may get those of an equal history,
        or of one with the same newest item, and then a right answer is no surprise.
        """
        run, rng = self._run, np.random.default_rng(self._config.seed)
        windows = run.sample(self._parts[self._last])
        rows = np.arange(len(windows))
        # Seeds other than theirs: trained weights still resemble their initial values.
        other_encoder = run.recommender.config.seed + self._config.seed + 1
        other_adapter = run.config.seed + self._config.seed + 1
        untrained = run.bridge.initial(
            np.asarray(run.histories(windows).states(rows))[:, 0], other_adapter
        )
        table: list[list[Any]] = []
        for task in tasks:
            states = np.asarray(run.histories(windows).states(rows, task.backs))
            fresh = np.asarray(
                run.histories(windows, untrained=other_encoder).states(rows, task.backs)
            )
            for name, reader, shown in (
                ("shuffled states", self._reader, states[deranged(len(rows), rng)]),
                ("untrained recommender", self._reader, fresh),
                ("untrained adapter", run.reader(untrained), states),
            ):
                left = measure(task, reader.read(shown, task), windows).metrics()
                key, value = next(iter(left.items()))
                self._note(f"{self._last}/{task}/control/{name.replace(' ', '_')}", {key: value})
                table.append([task.name, name, len(windows), value])
        return Table(
            "Controls", ["task", "control", "n", "accuracy, or items recovered"], table,
            "The same questions about states that say nothing of the history.",
        )  # fmt: skip

    def _cases(self, answers: dict[tuple[Task, str], list[Answer]]) -> list[Section]:
        names, windows = self._run.names, self._parts["sequences"]
        histories = windows.ids()
        out: list[Section] = []
        for task in self._run.config.ask.tasks:
            cases = []
            for number, answer in enumerate(answers[task, "sequences"][:_CASES]):
                row = [int(item) for item in histories[number] if item]
                wanted = set(row) if task.lists else set(row[-1:])
                history = [
                    Item(names[item], "hit" if item in answer.items & wanted else "")
                    for item in row
                ]
                items = []
                for title in answer.named:
                    hit = bool(wanted & set(title.items))
                    items.append(
                        Item(title.text, "hit" if hit else "miss" if title.items else "unknown")
                    )
                right = None if task.lists else bool(answer.items & wanted)
                heading = f"Sequence {number + 1}: {answer.text.strip()}"
                cases.append(
                    Case(heading, history, items or [Item("(no title)", "unknown")], right)
                )
            out.append(Cases(f"Cases: {task} (Figure 5)", cases, "Oldest item first."))
        return out

    def _errors(self, answers: Sequence[Answer]) -> Table:
        """The wrong answers by item; rare items in a table of their own."""
        windows, names = self._parts[self._last], self._run.names
        spans = self._run.recommender.split.train
        trained = np.zeros(self._run.store.n_items, np.int64)
        for start, stop in zip(spans.starts, spans.stops, strict=True):
            np.add.at(trained, self._run.store.items[start:stop], 1)
        wrong: dict[int, collections.Counter] = {}
        for answer, item in zip(answers, windows.newest.tolist(), strict=True):
            if item not in answer.items:
                text = answer.named[0].text if answer.named else "(no title)"
                wrong.setdefault(item, collections.Counter())[text] += 1
        worst = sorted(wrong, key=lambda item: (-wrong[item].total(), trained[item]))[:_ERRORS]
        rows: list[list[Any]] = [
            [names[item], int(trained[item]), wrong[item].total(), wrong[item].most_common(1)[0][0]]
            for item in worst
        ]
        return Table(
            "Errors", ["item", "training interactions", "times missed", "said most often"], rows,
            f"{sum(c.total() for c in wrong.values())} of {len(answers)} windows.",
        )  # fmt: skip

    def _filter(self) -> list[Section]:
        weights = self._params.get("body/filter")
        if weights is None:
            return []
        labels = [str(n) for n in range(1 - len(weights), 1)]
        return [
            Bars(
                "The adapter's filter", labels, {"weight": np.asarray(weights).tolist()},
                note="Weight of each position's state, the newest at 0 (section 4.1.2).",
            )
        ]  # fmt: skip

    def _oracle(self) -> list[Section]:
        run, windows = self._run, self._parts["sequences"]
        oracles = generate_oracles(run, windows, self._config.seed)
        states = np.stack([oracles.before, oracles.after], axis=1)
        answers = self._reader.read(states, RESIDUAL)
        measured = measure_oracles(answers, oracles, windows.newest)
        self._note("sequences", measured.metrics())
        rows: list[list[Any]] = [[name, value] for name, value in measured.metrics().items()]
        out: list[Section] = [Table("Oracle items (section 4.4)", ["figure", "value"], rows)]
        beyond = nearest_titles(answers, self._reader.index.nearest)
        if beyond:
            rows = [
                [title, "; ".join(f"{run.names[item]} ({like:.2f})" for item, like in near)]
                for title, near in beyond[:_ERRORS]
            ]
            note = f"{len(beyond)} of {len(answers)} answers are in no catalogue."
            out.append(Table("Beyond the catalogue", ["said", "most alike titles"], rows, note))
        if self._config.judge is not None:
            out.append(self._judged(answers))
        return out

    def _judged(self, answers: Sequence[Answer]) -> Section:
        assert self._config.judge is not None and self._config.versus is not None
        run, windows = self._run, self._parts["sequences"]
        name, recommend = self._config.versus
        own = run.recommender.config.model["name"]
        name = f"{name}'s ranking" if name in ("random", own) else name
        rng = np.random.default_rng([self._config.seed, 1])
        histories = windows.ids(back=1)
        others = recommend(histories)
        ballots = []
        for row, answer in enumerate(answers):
            if answer.named:
                ballots.append(
                    Ballot(
                        [run.names[item] for item in histories[row] if item],
                        {
                            "random": run.names[int(rng.integers(1, len(run.names)))],
                            name: run.names[int(others[row])],
                            own: answer.named[0].text,
                        },
                    )
                )
        title = "The judge's choice (Table 3)"
        if not ballots:
            return Text(title, "No answer names a title: there is nothing to choose from.")
        words = run.bridge.questions.words
        verdict = hold(ballots, self._config.judge, words=words, seed=self._config.seed)
        self._note("sequences", verdict.metrics())
        rows: list[list[Any]] = [
            [s, *verdict.share(s), *verdict.share_of_all(s)[:1]] for s in verdict.sources
        ]
        note = (
            f"{verdict.ballots} ballots, {verdict.ties} ties, {verdict.refusals} refusals; "
            f"{len(answers) - len(ballots)} histories without an answer are left out."
        )
        columns = ["recommended by", "chosen", "95 % from", "to", "of all"]
        return Table(title, columns, rows, note)
