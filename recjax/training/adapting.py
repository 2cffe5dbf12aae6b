"""The common part of runs that train a folder's language model: low-rank adapters, or all of it.

With `method` "lora" only the adapters are trained, saved and have optimiser state; the model itself
is frozen, and named by its folder and fingerprint. The best checkpoint ends as WORKDIR/adapter, in
peft's form; with `merge` also as WORKDIR/hf, a model of its own. With "full" all parameters are
trained, in float32, and WORKDIR/hf is the result.
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from flax import nnx

from recjax.config import to_plain
from recjax.convert.language_model import Loaded, language_model, outline, read_language_model
from recjax.convert.peft import adapted, merged, write_adapter
from recjax.convert.peft_config import targets_of
from recjax.convert.writing import write_of_all
from recjax.models.definition import ModelDef
from recjax.nn.lora import MOST_RANK, LoRAConfig
from recjax.nn.narrow import Form
from recjax.paths import home
from recjax.ranges import Checked, Dropout, FieldError, Positive, Range
from recjax.training import parallel
from recjax.training.freezing import FULL, LORA
from recjax.training.run import Run
from recjax.typing import Params


@dataclasses.dataclass(frozen=True)
class LowRankConfig(Checked):
    """Section `lora`."""

    rank: Annotated[int, Range(1, MOST_RANK)] = 8  # R
    alpha: Positive = 16.0  # the update is scaled by alpha / R
    rslora: bool = False  # by alpha / sqrt(R) instead
    dropout: Dropout = 0.0  # on the adapters' inputs
    # As in peft: ends of the names of linear maps; ("all-linear",) = all but the head; () = the
    # usual ones of the model's family.
    targets: tuple[str, ...] = ()

    def on(self, base: Loaded) -> LoRAConfig:
        """The adapters of a model, with targets as regular expressions over our paths.

        Raises:
            InputError: a name of no linear map of the model.
        """
        given: Any = "all-linear" if self.targets == ("all-linear",) else self.targets
        targets = base.family.lora_targets
        if given:
            targets = tuple(map(re.escape, targets_of(given, "config.lora.targets", base)))
        return LoRAConfig(self.rank, self.alpha, self.rslora, self.dropout, targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptingConfig(Checked):
    """Keys of a run that trains a language model of a folder."""

    llm: str = ""  # folder of a language model with its tokenizer
    method: Literal["lora", "full"] = "lora"
    lora: LowRankConfig = dataclasses.field(default_factory=LowRankConfig)
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""  # of the frozen model; "" = stored
    remat: Literal["none", "dots", "full"] = "none"  # what the backward pass computes again
    merge: bool = False  # write the model with its adapter merged, too
    quant: Literal["", "int8", "nf4"] = ""  # of the frozen layers' kernels (`recjax.nn.quant`)

    def __post_init__(self):
        super().__post_init__()
        if self.quant and self.method == "full":
            raise FieldError("quant", "expected nothing where all parameters are trained")
        if self.method == "full" and self.dtype not in ("", "float32"):
            raise FieldError("dtype", "expected float32 where all parameters are trained")
        if self.merge and self.method == "full":
            raise FieldError(
                "merge", "of an adapter; expected False where all parameters are trained"
            )


class AdaptingRun(Run):
    """A run whose model is a folder's; its config is an `AdaptingConfig`."""

    adapting: AdaptingConfig  # the run's config

    def __init__(self, config: Any, store: Any, workdir: Path | None = None):
        super().__init__(config, store, workdir)
        self.adapting = config
        self.rules = FULL if self.adapting.method == "full" else LORA

    @property
    def folder(self) -> Path:
        """The folder of the model that training starts from."""
        return home(self.adapting.llm)

    @property
    def _dtype(self) -> str | None:
        return "float32" if self.adapting.method == "full" else self.adapting.dtype or None

    @functools.cached_property
    def base(self) -> Loaded:
        """The language model with abstract parameters."""
        return self.read_outline()

    def read_outline(self) -> Loaded:
        """Reads `base` from its folder."""
        return outline(self.folder, dtype=self._dtype, remat=self.adapting.remat)

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The language model with its parameters on the devices, quantised if `quant` is set."""
        return self._read_base(self.adapting.quant or None)

    def _read_base(self, quant: Form | None) -> Loaded:
        return read_language_model(
            self.folder, dtype=self._dtype, remat=self.adapting.remat, quant=quant,
            shardings=lambda shapes, axes: parallel.param_shardings(
                shapes, parallel.ruled(axes, self.logical_rules), self.mesh
            ),
        )  # fmt: skip

    @functools.cached_property
    def lora(self) -> LoRAConfig:
        """The adapters' rank, scale and targets."""
        return self.adapting.lora.on(self.base)

    @functools.cached_property
    def _adapted(self) -> Loaded:
        if self.adapting.method == "full":
            return self.base
        out = adapted(self.base, self.lora, {})
        return dataclasses.replace(out, quant=self.adapting.quant or None)

    @functools.cached_property
    def model(self) -> ModelDef:
        """The definition of the model with its adapters."""
        return self._adapted.definition

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        return self._adapted.build(rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self.base.family.axes

    @property
    def given(self) -> Params:
        """The model's own parameters, where they are trained."""
        return self.loaded.params if self.adapting.method == "full" else {}

    @property
    def frozen(self) -> Params:
        """The model's own parameters, where adapters are trained."""
        return {} if self.adapting.method == "full" else self.loaded.params

    @property
    def drops(self) -> bool:
        """Whether training has dropout on the adapters' inputs."""
        return self.adapting.method == "lora" and self.adapting.lora.dropout > 0

    @property
    def plan_settings(self) -> dict[str, Any]:
        """The model's and the adapters' settings for `System.plan`."""
        stored, train = str(next(iter(self.base.params.values())).dtype), self.config.train
        return {
            "config": self.base.config,
            "train": self.adapting.method,
            "dtype": train.dtype if self.adapting.method == "full" else stored,
            "lora": None if self.adapting.method == "full" else self.lora,
            "quant": self.adapting.quant or None,
            "optim": self.config.optim,
            "accumulate": train.accumulate,
        }

    @functools.cached_property
    def model_identity(self) -> dict[str, Any]:
        """The model's part in a checkpoint's identity."""
        return {
            "lora": {"method": self.adapting.method, **to_plain(self.adapting.lora)}
            | ({"quant": self.adapting.quant} if self.adapting.quant else {}),
            "llm": self.loaded.fingerprint,
        }

    def finish(self, params: Params) -> dict[str, Any]:
        """Writes the best parameters: WORKDIR/adapter, and WORKDIR/hf where a model is wanted."""
        assert self.workdir is not None
        out: dict[str, Any] = {}
        if self.adapting.method == "lora":
            out["adapter"] = str(self.workdir / "adapter")
            own = {path: params[path] for path in self.trained}
            own = jax.jit(lambda p: p, out_shardings=parallel.replicated(self.mesh))(own)
            if jax.process_index() == 0:
                write_adapter(
                    out["adapter"], self.base, self.lora, own,
                    origin=self.model_identity["llm"], overwrite=True,
                )  # fmt: skip
        if self.adapting.method == "full" or self.adapting.merge:
            out["folder"] = str(self.workdir / "hf")
            model_params = {path: params[path] for path in self.trained}
            if self.adapting.method == "lora":
                base = self._read_base(None) if self.adapting.quant else self.loaded
                model_params = merged(base, self.lora, params).params
            model = language_model(self.base.config, model_params, self.base.folder)
            write_of_all(Path(out["folder"]), model, overwrite=True)
        return out
