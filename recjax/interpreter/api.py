"""Reading the states of any recommender, from plain arrays.

interpreter = Interpreter.fit(h_before, h_after, titles, llm="runs/catalogue/hf", domain="book")
interpreter.residual(h1, h2)[0].text         # "This user read book Dune in List2 but not in List1."
interpreter.save("runs/mine"); Interpreter.load("runs/mine")

Arrays are [n L D], or [n D] for recommenders with one vector a history, from PyTorch, TensorFlow,
JAX or a file.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from recjax.config import build, to_plain
from recjax.errors import InputError
from recjax.evaluation.shards import pipelined
from recjax.interpreter import adapters
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.examples import States, check_states
from recjax.interpreter.learning import Learner
from recjax.interpreter.questions import AskConfig
from recjax.interpreter.reader import Answer, Decoding, Reader
from recjax.interpreter.starting import StartConfig
from recjax.json_files import read_object
from recjax.llm import LanguageModel
from recjax.llm_folders import load_llm
from recjax.models.definition import fingerprint
from recjax.nn.quant import SCALE
from recjax.ranges import Checked, Size
from recjax.replace import new_folder, recovered
from recjax.text.tasks import RECOVERY, RESIDUAL
from recjax.training.item_vectors import has_item_vectors
from recjax.training.metrics import progress_bar
from recjax.training.optim import OptimConfig
from recjax.training.train_config import total_steps
from recjax.typing import Array, Params

_FILES = ("interpreter.json", "adapter.safetensors")
_LARGEST = 1 << 28  # bytes of the record, which has the catalogue's titles


class Interpreter:
    """A language model that reads the states of a recommender.

    >>> import numpy as np
    >>> import recjax
    >>> states = np.random.default_rng(0).normal(size=(2, 4, 6))  # of 4 histories, D = 6
    >>> titles = ["Dune", "Emma", "Dracula", "Utopia"]  # of the item that each history ends with
    >>> interpreter = recjax.Interpreter.fit(
    ...     states[0], states[1], titles, llm="runs/llm/hf", domain="book", epochs=1
    ... )
    >>> answers = interpreter.residual(states[0], states[1])  # without, and with that item
    >>> len(answers), type(answers[0].text).__name__
    (4, 'str')

    Args:
        bridge: adapter, language model and questions.
        params: of the adapter.
        titles: the catalogue's; answers are matched with them.

    Attributes:
        losses: of each step of `fit`.
    """

    def __init__(self, bridge: Bridge, params: Params, titles: Sequence[str]):
        self.bridge, self.params, self.titles = bridge, params, list(titles)
        self._reader = Reader(bridge, params, self.titles)
        self.losses: list[float] = []

    @classmethod
    def fit(
        cls,
        hidden_before: Any,
        hidden_after: Any,
        titles: Sequence[str],
        *,
        llm: str | Path | LanguageModel,
        histories: Sequence[Sequence[str]] | None = None,
        catalogue: Sequence[str] = (),
        ask: AskConfig | None = None,
        domain: str = "movie",
        adapter: adapters.Config | None = None,
        optim: OptimConfig | None = None,
        start: StartConfig | None = None,
        epochs: float = 5.0,
        batch_size: int = 64,
        seed: int = 0,
    ) -> "Interpreter":
        """Trains an adapter.

        Args:
            hidden_before, hidden_after: [n L D] or [n D] states of n histories without and with
                their newest item; of training users. Positions of zeros are padding.
            titles: [n] title of that item.
            llm: a folder of a language model with its tokenizer, or the model.
            histories: [n] titles of each history, oldest first: trains recovery, too.
            catalogue: all titles that an answer may name; by default those given.
            ask: prompts and lengths; by default those of the paper, in the words of `domain`.
            domain: "movie", "game", "product" or "book"; another one needs `ask`, whose prompts
                have its words.
            adapter: by default the paper's.
            optim: by default Adam, at 1e-4 from item vectors and 3e-3 from a random start.
            start: how the adapter starts; by default near the vectors that lie beside a
                catalogue's language model, where it has any, and else at random.
            epochs: passes over the examples, to the nearest step below.
            batch_size: examples a step; all where they are fewer.
            seed: of the adapter and of the examples' order.

        Raises:
            InputError: arrays that do not fit, NaN, states that are all zero, an empty title or
                history, recovery without histories, a language model without a tokenizer, an
                unknown domain.
        """
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}: expected at least 1")
        examples = States(hidden_before, hidden_after, titles, histories)
        if ask is None:
            ask = AskConfig(domain=domain, recovery=float(histories is not None))
        if ask.recovery and histories is None:
            raise InputError("ask.recovery: needs the titles of histories")
        if isinstance(llm, str | Path):
            llm = load_llm(llm)
        bridge = Bridge(llm, ask, adapter or adapters.Config(), *examples.after.shape[1:])
        if start is None:
            start = StartConfig(20_000 if has_item_vectors(llm.folder) else 0)
        if start.fade and histories is None:
            raise InputError("start.fade: needs the titles of histories")
        if optim is None:
            optim = OptimConfig(learning_rate=1e-4 if start.examples else 3e-3, clip_norm=1.0)
        learner = Learner(
            bridge, examples, batch_size=batch_size, seed=seed, start=start, optim=optim
        )
        learner.check()
        steps, state = learner.make_steps(), learner.init_state()
        losses = []
        total = total_steps(epochs, learner.steps_per_epoch)

        def launched() -> Iterator[Array]:
            nonlocal state
            for step in range(total):
                state, metrics = steps(state, learner.place(step))
                yield metrics["loss"]

        with progress_bar(total, 0, "fitting", "step") as bar:
            for loss in pipelined(launched()):
                losses.append(float(loss[0]))
                bar.update(1)
                bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
        known = [*catalogue, *titles, *(title for row in histories or () for title in row)]
        names = dict.fromkeys(" ".join(title.split()) for title in known)
        out = cls(bridge, state.params, ["", *names])
        out.losses = losses
        return out

    def residual(
        self, hidden_before: Any, hidden_after: Any, *, decoding: Decoding = "greedy"
    ) -> list[Answer]:
        """Names the item that the second history of each pair has and the first one lacks.

        Args:
            hidden_before, hidden_after: [B L D] or [B D].
            decoding: "greedy", "beam", or "constrained" to titles of the catalogue.

        Raises:
            InputError: an interpreter that was not trained for it (`ask.residual` is 0), arrays
                that do not fit, NaN.
        """
        both = [
            self._checked(h, name)
            for h, name in ((hidden_before, "hidden_before"), (hidden_after, "hidden_after"))
        ]
        if len(both[0]) != len(both[1]):
            raise InputError(f"hidden_before: {len(both[0])} rows, hidden_after: {len(both[1])}")
        return self._reader.read(np.stack(both, axis=1), RESIDUAL, decoding=decoding)

    def recover(self, hidden: Any, *, decoding: Decoding = "greedy") -> list[Answer]:
        """Names the items of each history, from the newest on.

        Args:
            hidden: [B L D] or [B D].
            decoding: "greedy", "beam", or "constrained" to titles of the catalogue.

        Raises:
            InputError: an interpreter that was not trained for it (`fit` without `histories`), an
                array that does not fit, NaN.
        """
        states = self._checked(hidden, "hidden")[:, None]
        return self._reader.read(states, RECOVERY, decoding=decoding)

    def _checked(self, h: Any, name: str) -> np.ndarray:
        return check_states(h, name, length=self.bridge.length, dim=self.bridge.dim)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the adapter, its settings, the titles, and the language model's path.

        Raises:
            InputError: a language model that was read from no folder; what
                `recjax.replace.new_folder` refuses.
        """
        bridge = self.bridge
        if bridge.llm.folder is None:
            raise InputError("save: the language model has no folder; save it, and load it there")
        record = {
            "ask": to_plain(bridge.questions.config),
            "adapter": to_plain(bridge.config),
            "length": bridge.length,
            "dim": bridge.dim,
            "llm": str(bridge.llm.folder.absolute()),
            "llm_fingerprint": fingerprint(bridge.llm.params),
            "llm_dtype": _dtype_of(bridge.llm),
            "llm_quant": bridge.llm.quant or "",
            "titles": self.titles,
        }
        with new_folder(Path(path), overwrite=overwrite) as folder:
            text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
            (folder / _FILES[0]).write_text(text, encoding="utf-8")
            arrays = {name: np.asarray(value) for name, value in self.params.items()}
            save_file(arrays, folder / _FILES[1])
        return Path(path)

    @classmethod
    def load(
        cls, path: str | Path, *, llm: str | Path | LanguageModel | None = None
    ) -> "Interpreter":
        """The interpreter in a folder that `save` wrote.

        Args:
            path: the folder.
            llm: the language model, where it is not in its old folder any more.

        Raises:
            InputError: a missing or damaged file, another language model.
        """
        path = Path(path)
        recovered(path)
        record = _read(path / _FILES[0], _record)
        params = _read(path / _FILES[1], load_file)
        if isinstance(llm, LanguageModel):
            model = llm
        else:
            dtype, quant = record.llm_dtype or None, record.llm_quant or None
            model = load_llm(llm or record.llm, dtype=dtype, quant=quant)
        if fingerprint(model.params) != record.llm_fingerprint:
            raise InputError(f"{path}: was trained with another language model than {model.folder}")
        bridge = Bridge(model, record.ask, record.adapter, record.length, record.dim)
        shapes = {name: value.shape for name, value in params.items()}
        if shapes != {name: value.shape for name, value in bridge.adapter.shapes.items()}:
            raise InputError(f"{path / _FILES[1]}: arrays of another adapter")
        for name, value in params.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise InputError(f"{path / _FILES[1]}: '{name}': expected finite float32 numbers")
        return cls(bridge, params, record.titles)


@dataclasses.dataclass(frozen=True)
class _Record(Checked):
    """The content of `interpreter.json`."""

    ask: AskConfig
    adapter: adapters.Config
    length: Size
    dim: Size
    llm: str
    llm_fingerprint: str
    titles: tuple[str, ...]
    llm_dtype: str = ""  # that it was read in; "" = as it is stored
    llm_quant: Literal["", "int8", "nf4"] = ""


def _dtype_of(llm: LanguageModel) -> str:
    """The dtype of all floating-point parameters; "" if they differ."""
    wide = (a for path, a in llm.params.items() if not path.endswith(SCALE))
    kinds = {str(a.dtype) for a in wide if jnp.issubdtype(a.dtype, jnp.floating)}
    return kinds.pop() if len(kinds) == 1 else ""


def _record(file: Path) -> _Record:
    return build(_Record, read_object(file, largest=_LARGEST), "interpreter")


def _read(file: Path, read: Callable[[Path], Any]) -> Any:
    if not file.exists():
        raise InputError(f"{file}: missing; expected a file of Interpreter.save")
    try:
        return read(file)
    except InputError as error:
        message = str(error)
        raise error if message.startswith(str(file)) else InputError(f"{file}: {message}") from None
    except Exception as error:  # safetensors' own
        raise InputError(f"{file}: damaged ({error})") from error
