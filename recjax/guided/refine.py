"""Recommenders whose vectors have a guided part (guided embedding refinement, section 3.2).

An item's vector is its own, learned one, joined with `alpha` times its guided part (equation 9a),
which is frozen. The total width is the model's `dim`: 60 with 12 aspects leaves 48 learned numbers.
A user's vector is the encoder's state; with the user side its guided coordinates are those of the
user's guided vector (9b), or have them added.

    recjax train --config=configs/guided/ml100k_refined.py:sasrec-ce-joined --workdir=runs/joined

The guided part is normalised to the deviation of Xavier's initialisation (A.5), or goes through a
learned linear map of its own for items and for users (equation 8).

Deviations: columns are standardised one by one over the items that have them (A.5 does not say over
what); Xavier's deviation is that of the table, sqrt(2 / (I + D)); equation 8 names one map, here
items and users have one each, which begins as the normalised form where it keeps the width; by
default users have no guided part, or the mean of their last items' scores and not a model's.

`recjax.guided.vectors` has the model. Letters: A columns, G guided width.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.config import build, to_plain
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.guided.sources import Guided, GuidedConfig, read_guided
from recjax.guided.vectors import RefineConfig, refined
from recjax.models.attributed import ATTRIBUTES
from recjax.models.recommender import read_config
from recjax.training import parallel, recommender
from recjax.training.freezing import Rules
from recjax.training.recommender import RecommenderRun, RunConfig
from recjax.training.system import System
from recjax.typing import Array, Params

_RULES: Rules = ((r"(items|outputs|guided_users)/guided", "frozen"), (r".*", "trained"))
_AXES = (
    (r"(items|outputs)/own/embedding", ("items", "width")),
    (r"(items|outputs|guided_users)/guided", ("items", None)),
    (r"(items|outputs|guided_users)/map/.*", (None,)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedRunConfig(RunConfig):
    """A refined recommender's config: a recommender's, and two sections more."""

    guided: GuidedConfig
    refine: RefineConfig = dataclasses.field(default_factory=RefineConfig)

    system = "guided"


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in; see `recjax.training.recommender.complete`."""
    own = {key: section[key] for key in section if key not in ("guided", "refine")}
    config = build(GuidedRunConfig, section, "config")
    more = {"guided": to_plain(config.guided), "refine": to_plain(config.refine)}
    return recommender.complete(own) | more


class GuidedRun(RecommenderRun):
    """A refined recommender's run; see `RecommenderRun`.

    Attributes:
        guided: the guided part, by item and user.
    """

    config: GuidedRunConfig

    def __init__(self, config: GuidedRunConfig, store: Store, workdir: Path | None = None):
        self.guided: Guided = read_guided(config.guided, store, config.seed)
        module, model = read_config(config.model)
        if getattr(model, "repeats", False):
            raise InputError("config.model.repeats: expected False where vectors have guided parts")
        if config.items.vectors:
            raise InputError("config.items.vectors: expected none where vectors have guided parts")
        if config.refine.user != "none":
            if module.Recommender.generative:
                name = config.model["name"]
                raise InputError(
                    f"config.refine.user: '{name}' makes the vector that it scores; expected 'none'"
                )
            reads = getattr(model, "window", model.max_length) - module.Recommender.masked
            if self.guided.recent is not None and not module.Recommender.reads_history:
                raise InputError(
                    f"config.guided.vector: '{config.model['name']}' reads no history; expected "
                    "scores:FILE"
                )
            if (self.guided.recent or 0) > reads:
                raise InputError(
                    f"config.guided.vector: {config.guided.vector}, but the model reads "
                    f"{reads} items; expected that at most"
                )
        arrays = {"items/guided": self.guided.items}
        if hasattr(model, "tied") and not model.tied:
            arrays["outputs/guided"] = self.guided.items
        if config.refine.user != "none" and self.guided.users is not None:
            arrays["guided_users/guided"] = self.guided.users
        super().__init__(config, store, workdir, arrays=arrays, rules=_RULES)
        self.personal |= "guided_users/guided" in arrays

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        module, model = read_config(self.config.model)
        guided, kind = self.guided, module.Recommender
        users = 0 if guided.users is None else len(guided.users)
        sizes = {"n_users": self.store.n_users} if kind.personal else {}
        if kind.attributed:
            sizes["n_attributes"] = self._arrays[ATTRIBUTES].shape[1]
        return refined(kind)(
            model, self.store.n_items, self.config.refine, len(guided.names), guided.recent, users,
            self.rows, rngs=rngs, **sizes,
        )  # fmt: skip

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return (*_AXES, *super().axes)

    identity_words: ClassVar[Mapping[str, str]] = {
        "guided": "guided part: config.guided, or a file that it names, was changed"
    }

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the model, the data, and the guided part."""
        own = {key: value for key, value in super().identity.items() if key != "arrays"}
        return {**own, "refine": to_plain(self.config.refine), "guided": self.guided.fingerprint}

    def with_seed(self, seed: int) -> "GuidedRun":
        """The same run of another seed, without its folder."""
        return GuidedRun(dataclasses.replace(self.config, seed=seed), self.store)

    @functools.cached_property
    def data(self) -> Any:  # type: ignore[override]
        """Arrays from which negatives are drawn, and the user of each training sequence."""
        owners = self.split.train.users.astype(np.int32) + 1
        return parallel.replicate({**self.objective.data, "owners": owners}, self.mesh)

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """See `Trainable`."""
        return super().loss_fn(params, {**batch, "owners": data["owners"]}, data, key)

    def aspect_map(self, params: Params) -> Array:
        """[G A]: what the guided coordinates of a predicted vector weigh each column with.

        Scores are base part + (guided coordinates @ this) @ standardised columns, up to a number
        that all items share (of the linear form's bias).
        """
        table = "outputs" if "outputs/guided" in self.model.shapes else "items"
        refine, columns = self.config.refine, len(self.guided.names)
        if refine.form == "linear":
            return refine.alpha * params[f"{table}/map/kernel"].T
        module = self.model.merge(params)
        return refine.alpha * getattr(module, table).deviation * jnp.eye(columns)

    def describe(self) -> str:
        """One line: model, parameters, data, devices; and the guided part."""
        return f"{super().describe()}\n{self.guided.describe()}"


def settled(config: GuidedRunConfig, store: Store) -> GuidedRunConfig:
    """The config with absolute paths."""
    return dataclasses.replace(recommender.settled(config, store), guided=config.guided.settled())


SYSTEM = System(
    GuidedRunConfig, GuidedRun, complete, settled=settled,
    may_change=(*recommender.MAY_CHANGE, "guided.items", "guided.vector"),
)  # fmt: skip
