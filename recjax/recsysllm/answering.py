"""The writing of answers by a run of RecSysLLM: its parameters as a language model."""

import dataclasses
import functools
from typing import Any

from recjax.errors import InputError
from recjax.llm import LanguageModel
from recjax.recsysllm.answers import Answerer, TitleLists
from recjax.recsysllm.mixed import Mixed
from recjax.recsysllm.prompts import PROMPTS
from recjax.recsysllm.tasks import TasksConfig
from recjax.training.parallel import for_writing
from recjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a run.

    Attributes:
        run: a `run.BlankRun`.
        source: its source.
    """

    run: Any
    source: Mixed

    def answerer(self, params: Params) -> Answerer:
        """A writer of answers with these parameters."""
        run = self.run
        lm = LanguageModel(
            run.model, for_writing(params, run.mesh), run.base.config, tokenizer=run.tokenizer,
            stop=(run.marks.eop,), mesh=run.mesh if run.mesh.size > 1 else None,
        )  # fmt: skip
        return Answerer(
            self.source.options.answers, lm, run.batches.blanking, self.source.dataset.names,
            run.config.prefix,
        )  # fmt: skip

    @functools.cached_property
    def lists(self) -> TitleLists | None:
        """The maker of lists; None where "sequential" has no share."""
        id = recommending(self.source.options.tasks)
        return None if id is None else TitleLists(self.source, self.answerer, id)


def recommending(tasks: TasksConfig) -> str | None:
    """The prompt that asks for recommendations; None where "sequential" has no share.

    Raises:
        InputError: none of those that are trained asks so.
    """
    if not tasks.sequential:
        return None
    fit = [
        id for id in tasks.only or ("2-3",)
        if PROMPTS[id].family == "sequential" and PROMPTS[id].target == "{target_title}"
        and "candidates" not in PROMPTS[id].fields
    ]  # fmt: skip
    if not fit:
        raise InputError(
            f"config.text.tasks.only: {', '.join(tasks.only)}; recommendation asks for the "
            "next item, as 2-1 to 2-6 do"
        )
    return fit[0]
