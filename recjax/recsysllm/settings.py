"""The config of a run of RecSysLLM."""

import dataclasses
from typing import Annotated, Any, Literal

from recjax.config import build, to_plain
from recjax.data.prepare import DataConfig, read_options
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.ranges import Checked, Epochs, FieldError, Range, Seed, Size
from recjax.recsysllm.item_tokens import NamingConfig
from recjax.recsysllm.sources import source_of
from recjax.recsysllm.spans import BlankConfig
from recjax.training.adapting import AdaptingConfig
from recjax.training.new_model import plain_model, read_model
from recjax.training.optim import OptimConfig
from recjax.training.ranking_run import SplitConfig
from recjax.training.system import filled_in
from recjax.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class BlankTokenizerConfig(Checked):
    """Section `tokenizer`: of a new model, a tokenizer that is trained on its texts, or given."""

    vocab_size: Annotated[int, Range(265, 2**20)] = 2000  # ids of the BPE that is trained
    path: str = ""  # folder of a tokenizer that a new model takes; "" = one is trained
    # By field of `Marks`: tokens that stand for GLM's, where a vocabulary has no others.
    marks: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        if not all(isinstance(token, str) for token in self.marks.values()):
            raise FieldError("marks", f"expected the text of a token each, got {self.marks}")


@dataclasses.dataclass(frozen=True)
class BlankTrainConfig(TrainConfig):
    """Section `train` of blank infilling."""

    batch_size: Size = 32  # documents a step, over all devices
    epochs: Epochs = 8.0
    steps_per_call: Annotated[int, Range(1, 10_000)] = 1
    metric: str = "validation/text/loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlankRunConfig(AdaptingConfig):
    """The config of a run of RecSysLLM."""

    model: dict = dataclasses.field(default_factory=dict)  # a new model: see `read_model`
    method: Literal["lora", "full"] = "full"
    text: dict = dataclasses.field(default_factory=dict)  # `source` and its options
    data: DataConfig | None = None  # of a source that reads a store
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    tokenizer: BlankTokenizerConfig = dataclasses.field(default_factory=BlankTokenizerConfig)
    blanks: BlankConfig = dataclasses.field(default_factory=BlankConfig)
    length: Annotated[int, Range(0, 1 << 20)] = 0  # T; 0 = as many as the model was trained on
    prefix: bool = False  # a causal family reads a text with its masks both ways
    seed: Seed = 0  # of weights, documents and blanks
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: BlankTrainConfig = dataclasses.field(default_factory=BlankTrainConfig)
    evaluation: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)

    system = "recsysllm"  # its name in `recjax.systems.SYSTEMS`; no field

    def __post_init__(self):
        super().__post_init__()
        if bool(self.llm) == bool(self.model):
            found = "both are set" if self.llm else "neither is set"
            raise FieldError("llm", f"a model's folder or config.model, a new one; {found}")
        if self.llm and self.tokenizer.path:
            raise FieldError("tokenizer.path", "of a new model; a folder's model has its own")
        if self.model:
            read_model(self.model, self.tokenizer.vocab_size)
            if self.method == "lora":
                raise FieldError("method", "adapters need a trained model; expected config.llm")
            if self.remat != "none":
                raise FieldError("remat", "of a folder's model; expected config.model.remat")
        naming = getattr(source_of(self.text)[1], "naming", None)
        if self.llm and isinstance(naming, NamingConfig) and naming.token:
            raise FieldError("text.naming.token", "a new model learns them; expected config.model")
        if self.data is not None:
            read_options(self.data)


def complete(section: Any) -> dict[str, Any]:
    """See `recjax.training.workdir.complete`."""
    config = build(BlankRunConfig, section, "config")
    source = to_plain(source_of(config.text)[1])
    own = {"text": {"source": config.text.get("source", "catalogue"), **source}}
    if config.model:
        own["model"] = plain_model(config.model, config.tokenizer.vocab_size)
    return filled_in(config, **own)
