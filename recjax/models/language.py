"""The language-model contract, and the table of families that fulfil it.

A family is a module with `Config` (a `LanguageConfig`), `PRESETS` (name -> Config), `PARAM_AXES`
(regex over the parameter path -> logical axes) and a class, a `LanguageModule`. Its layers are
stacked: their parameters have a leading layer axis. `FAMILIES` names it, and whatever reads,
trains, plans or runs language models finds it there. A new family is a line of that table and a
line of tests/unit/models/test_language_contract.py.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import jax.numpy as jnp
from flax import nnx

from recjax.config import nearest
from recjax.errors import InputError
from recjax.lazy import resolve
from recjax.nn.lora import Linear
from recjax.nn.masks import make_mask
from recjax.ranges import Checked, Few, FieldError, Positive, Range, Size, check_multiple
from recjax.sharded import rows_of
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class LanguageConfig(Checked):
    """The sizes of every family; a family adds its own fields."""

    vocab_size: Annotated[int, Range(1, 2**24)] = 32000  # V
    dim: Size = 256  # E
    mlp_dim: Size = 704  # F
    layers: Few = 4
    heads: Size = 4  # N
    kv_heads: Size = 4  # K; fewer than N: grouped-query attention
    head_dim: Size = 64  # H; E / N in most published models, but not by need
    # The longest input it was trained on; positions may go on.
    max_length: Annotated[int, Range(1, 2**24)] = 2048
    tied: bool = False  # the head is the embedding
    init_std: Positive = 0.02  # of all matrices, at the start of training
    # What the backward pass keeps: "none": recomputes nothing; "dots": recomputes all but matrix
    # products; "full": recomputes a layer from its input.
    remat: Literal["none", "dots", "full"] = "none"
    unroll: Few = 1  # layers a step of the scan: more compile longer and may run faster
    grouped = True  # heads may share keys and values; no field

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "heads", of="kv_heads")
        if not self.grouped and self.kv_heads != self.heads:
            raise FieldError("kv_heads", f"{self.kv_heads}: expected heads, {self.heads}")


class LanguageModule(nnx.Module):
    """The interface of every family's class.

    Rows consist of a prompt and of tokens that the model writes after it. A causal model treats
    both alike. Another may read the prompt both ways: then the prompt's states depend on where the
    prompt ends, so that no beginning of it can be computed once and reused (`shares_prefix`).

    A cache is the model's own pytree with `take(rows)`, `grow(slots)` and, where the model shares
    prefixes, `as_prefix()` and `start(rows, slots)`; see `recjax.nn.cache.KVCache`. The first call
    with an empty cache reads the whole prompts; every later call reads tokens that were written.
    A causal model may read the prompts in several calls. The cache holds the positions of the next
    tokens: a call with a cache and no `positions` goes on from there.

    Args:
        config: the sizes.
        rngs: initialiser keys (`params`).
        dtype: of the parameters.

    Attributes:
        config: as given.
        embedding: [V E].
        head: the map from states to logits; None: it is the embedding.
        shares_prefix: the states of a prompt's beginning are those of the beginning alone, so that
            prompts may share its cache. Causal models only.
        position_rows: 1: positions are [B T]; 2: [B 2 T].
        position_table: positions are rows of a table that ends with `max_length`.
        reads_encoder: `hidden` takes `encoder` [B S] and `encoder_mask`, what a decoder attends to.
    """

    config: Any
    embedding: nnx.Param
    head: Linear | None
    shares_prefix: ClassVar[bool] = False
    position_rows: ClassVar[int] = 1
    position_table: ClassVar[bool] = False
    reads_encoder: ClassVar[bool] = False

    def __init__(self, config: LanguageConfig, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        raise NotImplementedError

    def embed(self, tokens: Array) -> Array:
        """Embeddings [B T E] of tokens [B T]."""
        return rows_of(self.embedding[...], tokens, "vocab")

    def hidden(
        self,
        inputs: Array,
        *,
        positions: Array | None = None,
        mask: Array | None = None,
        cache: Any = None,
        prefix: Any = None,
        key: Array | None = None,
        places: Array | None = None,
    ) -> tuple[Array, Any]:
        """Final hidden states [B T E], and the cache with these inputs in it (None without one).

        Args:
            inputs: tokens [B T], or embeddings [B T E], e.g. with soft tokens among them.
            positions: [B T] or [B 2 T] (`position_rows`). By default those that follow the cache
                or the prefix; without either, those of prompts.
            mask: [B T] bool, real tokens; or [B T T] bool, query by key, True = may attend: of all
                families without a cache, of those without an encoder also with one, where it says
                who of these tokens sees whom. By default all tokens are real.
            cache: of `empty_cache`, or of the call before.
            prefix: without a cache: of `as_prefix`, what all rows have read before. It is not
                written to, so that training may read it. For models that share prefixes.
            key: of the adapters' dropout; none outside training.
            places: [B Q], where states are wanted: [B Q E]. By default everywhere.
        """
        raise NotImplementedError

    def logits(self, h: Array) -> Array:
        """Logits [... V] of final hidden states [... E]."""
        if self.head is not None:
            return self.head(h)
        return jnp.einsum("...E,VE->...V", h, self.embedding[...].astype(h.dtype))

    def head_table(self) -> Array:
        """The head as a row [E] a token: [V E]; with its adapter in it, where it has one."""
        return self.embedding[...] if self.head is None else self.head.merged().T

    def empty_cache(self, rows: int, slots: int) -> Any:
        """A cache for `slots` tokens in each of `rows` rows."""
        raise NotImplementedError

    def reading(
        self, segments: Array, written: Array | None = None, within: Array | None = None
    ) -> dict[str, Array]:
        """`positions` and `mask` [B T T] for `hidden`: how this model reads whole rows.

        Args:
            segments: [B T], number of the sequence that a token is of, 0 = padding. One sequence a
                row: its real tokens.
            written: [B T] bool, the tokens after each prompt; by default all are of prompts. Causal
                models read both alike.
            within: [B T], the place of each token in its sequence; by default that of rows with one
                sequence.
        """
        del written
        real = segments > 0
        if within is None:
            within = jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
        return {"positions": within, "mask": make_mask(real, 1, segments)}

    def for_decoding(self) -> Self:
        """This model, prepared once for cached calls inside a loop."""
        return self

    def __call__(self, inputs: Array, **options: Any) -> tuple[Array, Any]:
        """Logits [B T V] of the token after each place, and the cache; see `hidden`."""
        h, cache = self.hidden(inputs, **options)
        return self.logits(h), cache


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one architecture; its modules are imported when they are asked for.

    Attributes:
        name: in configs.
        module: "module:Class" of the model.
        converter: the module of Hugging Face's form, with `read_config`, `write_config`, `RULES`
            and `tidy` (see `recjax.convert.llama_hf`).
        model_types: the values of `model_type` in `config.json` that are of this family.
        prefixes: that some files put before the names of tensors.
        mark: the attribute that tells this family from another with the same `model_type`.
        forms: of files (`recjax.convert.language_model`) that can hold its models.
        lora_targets: the usual ones, regex over module paths.
    """

    name: str
    module: str
    converter: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    mark: str | None = None
    forms: tuple[str, ...] = ("recjax", "hf")
    lora_targets: tuple[str, ...] = (r"layers/attention/(query|value)",)

    @property
    def build(self) -> type[LanguageModule]:
        """The class: `build(config, rngs=..., dtype=...)`."""
        return resolve(self.module)

    def _of_module(self, name: str) -> Any:
        return resolve(f"{self.module.partition(':')[0]}:{name}")

    @property
    def not_causal(self) -> str:
        """How prompts are read, where a causal model reads them otherwise; "" for a causal one."""
        if self.build.reads_encoder:
            return "reads prompts by an encoder"
        return "" if self.build.shares_prefix else "reads prompts both ways"

    @property
    def config(self) -> type[LanguageConfig]:
        """The class of its sizes."""
        return self._of_module("Config")

    @property
    def presets(self) -> Mapping[str, LanguageConfig]:
        """Sizes by name."""
        return self._of_module("PRESETS")

    @property
    def axes(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Logical axes of the parameters."""
        return self._of_module("PARAM_AXES")

    def bare(self, name: str) -> str:
        """The name of a tensor without `prefixes`."""
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return name

    @property
    def hf(self) -> Any:
        """The module of Hugging Face's form."""
        return importlib.import_module(self.converter)


# All linear maps of a layer, as RecSysLLM adapts them.
_GLM_TARGETS = (r"layers/(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)",)
FAMILIES = {
    "llama": Family(
        "llama",
        "recjax.models.llama:Llama",
        "recjax.convert.llama_hf",
        model_types=("llama",),
        forms=("recjax", "hf", "meta", "flax"),
    ),
    "glm": Family(
        "glm",
        "recjax.models.glm:GLM",
        "recjax.convert.glm_hf",
        model_types=("glm",),
        prefixes=("module.", "glm."),  # of training's files; of the class for generation
        mark="num_layers",
        lora_targets=_GLM_TARGETS,
    ),
    "chatglm": Family(
        "chatglm",
        "recjax.models.chatglm:ChatGLM",
        "recjax.convert.chatglm_hf",
        model_types=("chatglm",),
        prefixes=("module.",),
        lora_targets=_GLM_TARGETS,
    ),
    "glm4": Family(
        "glm4",
        "recjax.models.glm4:GLM4",
        "recjax.convert.glm4_hf",
        model_types=("glm", "glm4"),
        mark="num_hidden_layers",
    ),
    "gpt2": Family(
        "gpt2",
        "recjax.models.gpt2:GPT2",
        "recjax.convert.gpt2_hf",
        model_types=("gpt2",),
        lora_targets=(r"layers/attention/query_key_value",),
    ),
    "t5": Family(
        "t5",
        "recjax.models.t5:T5",
        "recjax.convert.t5_hf",
        model_types=("t5",),
        lora_targets=(r"(encoder|layers)/(attention|cross)/(query|value)",),
    ),
    "qwen3": Family(
        "qwen3", "recjax.models.qwen3:Qwen3", "recjax.convert.qwen3_hf", model_types=("qwen3",)
    ),
}
DEFAULT = "llama"  # the family of a config that names none


def find_family(name: Any, where: str) -> Family:
    """The family of a name.

    Args:
        name: a key of `FAMILIES`.
        where: the config's key, for errors.

    Raises:
        InputError: no such family.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        hint = nearest(str(name), FAMILIES)
        raise InputError(f"{where}: no language model '{name}'; {hint}")
    return FAMILIES[name]


def family_for(config: LanguageConfig) -> Family:
    """The family whose config this is."""
    module = type(config).__module__
    return next(f for f in FAMILIES.values() if f.module.partition(":")[0] == module)


def presets() -> dict[str, LanguageConfig]:
    """The presets of all families; no two have one name."""
    return {name: config for f in FAMILIES.values() for name, config in f.presets.items()}
