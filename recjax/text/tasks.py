"""Tasks: what a language model is asked of a history's representations, as data.

RecInterpreter's two (Yang et al. 2023) stand here: a catalogue's language model learns them from
documents (`recjax.text.corpus`), and an interpreter asks them of a recommender's states.
"""

import dataclasses

from recjax.text.prompts import WORDS, Prompt, PromptTable


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of question.

    Attributes:
        name: in configs, files of prompts and names of metrics.
        prompts: questions and answers; the first one measures.
        backs: for each representation in a question, how many of the newest items it leaves out:
            (1, 0) asks about a history before and after its newest item, (0,) after it alone.
        lists: an answer names the items of the history, the newest first; else the newest alone.
        tokens: of an answer, at most.
        decays: between these lies how fast older items fade in a document's blends.
        fade: the same of the blends that an adapter starts near; None leaves it to a config.
    """

    name: str
    prompts: tuple[Prompt, ...]
    backs: tuple[int, ...]
    lists: bool
    tokens: int
    decays: tuple[float, float]
    fade: float | None

    def __str__(self) -> str:
        return self.name

    @property
    def least(self) -> int:
        """Items that a history needs, so that no representation is empty."""
        return 1 + max(self.backs)


_WATCHED = "A person has {past} a series of {items}. "
_USER = "A user has {past} a series of {items}, which can be represented as "
# Section 3.1, section 1, and a paraphrase. Items of about one weight can be listed best.
RECOVERY = Task(
    "recovery",
    (
        Prompt(
            _WATCHED + "The {doing} list can be represented as: {soft}. "
            "Describe this {doing} history of the person in detail.",
            "This user has {past} {titles} in the previous.",
        ),
        Prompt(
            _USER + "{soft}. What {items} has the user {past}?", "The user has {past} {titles}."
        ),
        Prompt(
            "Here is the {doing} history of a user: {soft}. Name its {items}.",
            "The {items} are {titles}.",
        ),
    ),
    backs=(0,),
    lists=True,
    tokens=100,
    decays=(0.85, 1.0),
    fade=0.95,
)
# Section 3.2, section 1, and a paraphrase. The added item has to be told from the difference, too,
# where nothing fades.
RESIDUAL = Task(
    "residual",
    (
        Prompt(
            _WATCHED + "The {doing} list can be represented as List1: {soft}. After {doing} "
            "another {item}, the {doing} list can further be represented as List2: {soft}. "
            "What is the {item} in List2 but not in List1?",
            "This user {past} {item} {titles} in List2 but not in List1.",
        ),
        Prompt(
            _USER + "{soft}. After {doing} another {item}, the {doing} history can be "
            "represented as {soft}. What is the additional {item} the user {past}?",
            "The additional {item} is {titles}.",
        ),
        Prompt(
            "The {doing} history of a user was {soft} and has become {soft}. "
            "Which {item} is new in it?",
            "The new {item} is {titles}.",
        ),
    ),
    backs=(1, 0),
    lists=False,
    tokens=50,  # section 4.1.2
    decays=(0.0, 1.0),
    fade=None,
)
TASKS = {task.name: task for task in (RECOVERY, RESIDUAL)}
PROMPTS = PromptTable(WORDS, {task.name: task.prompts for task in TASKS.values()})
