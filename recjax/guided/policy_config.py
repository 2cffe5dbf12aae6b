"""The config of users' scores by policy gradient: `recjax.guided.policy`."""

import dataclasses
from typing import Annotated, Literal

from recjax.data.prepare import DataConfig, read_options
from recjax.guided.user_examples import UserConfig
from recjax.guided.user_ranking import PolicyEvaluationConfig
from recjax.ranges import Amount, Checked, FieldError, Positive, Range, Seed
from recjax.training.adapting import AdaptingConfig
from recjax.training.finetune import FinetuneTrainConfig
from recjax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True)
class RewardConfig(Checked):
    """Section `reward`."""

    # "liked": AUC of the next items, liked or not; "next": their mean reciprocal rank.
    task: Literal["liked", "next"] = "liked"
    draws: Literal["forced", "free"] = "forced"  # the ratings alone, or all of an answer's tokens
    samples: Annotated[int, Range(2, 1024)] = 8  # G
    temperature: Positive = 1.0  # of the draws
    # Of a rating's advantage: the answer's, or the answer's reward less that with this aspect left
    # at the mean (less noise; what later ratings of the answer make of it is left out).
    credit: Literal["answer", "aspect"] = "answer"
    scale: bool = False  # divide the task's advantages by their deviation in the group, as GRPO
    updates: Annotated[int, Range(1, 64)] = 1  # of the parameters by a step's draws
    clip: Annotated[float, Range(above=0, below=1)] = 0.2  # of a probability's change by them
    kl: Amount = 0.0  # weight of the divergence from the start; of adapters alone
    # A file of users' scores whose answers' likelihood is learned, too: of all draws that are
    # forced; of free ones as far as nothing is read of a user's answers (the paper's fallback).
    teacher: str = ""
    teacher_weight: Amount = 0.0


@dataclasses.dataclass(frozen=True)
class FormatConfig(Checked):
    """Section `format`: the weight of the format loss of free draws, by how far an answer is read.

    A user's loss has the mean weight of the user's answers.
    """

    whole: Amount = 0.1  # all scores
    partly: Amount = 1.0  # some
    unread: Amount = 1.0  # none; 0 leaves them to the teacher


@dataclasses.dataclass(frozen=True)
class PolicyTrainConfig(FinetuneTrainConfig):
    """Section `train`."""

    metric: str = "validation/users/loss"  # 1 - the task's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig(AdaptingConfig):
    """The config of a policy's fine-tuning."""

    data: DataConfig
    items: str  # a file of the items' scores
    aspects: str = ""  # their set; "" = as the file says
    users: UserConfig = dataclasses.field(default_factory=UserConfig)
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    format: FormatConfig = dataclasses.field(default_factory=FormatConfig)
    seed: Seed = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: PolicyTrainConfig = dataclasses.field(default_factory=PolicyTrainConfig)
    evaluation: PolicyEvaluationConfig = dataclasses.field(default_factory=PolicyEvaluationConfig)

    system = "policy"  # its name in `recjax.systems.SYSTEMS`; no field

    def __post_init__(self):
        super().__post_init__()
        read_options(self.data)
        if not self.llm:
            raise FieldError("llm", "is empty; expected the folder of a language model")
        if not self.items:
            raise FieldError("items", "is empty; expected a file of the items' scores")
        if self.reward.kl and self.method != "lora":
            raise FieldError("reward.kl", "needs the start's weights: expected method 'lora'")
        if bool(self.reward.teacher) != bool(self.reward.teacher_weight):
            raise FieldError("reward.teacher_weight", "goes with reward.teacher: set both or none")
        if self.format != FormatConfig() and self.reward.draws != "free":
            raise FieldError(
                "format", "is of answers that are written: expected reward.draws 'free'"
            )
        if self.lora.dropout:
            raise FieldError("lora.dropout", "expected 0: a policy learns as it draws")
