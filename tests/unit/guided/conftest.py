"""A log whose users choose by aspects; a tiny language model; an endpoint on loopback."""

import http.server
import json
import threading

import numpy as np
import pytest
from flax import nnx

from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.data.prepare import DataConfig, prepare
from recjax.guided.aspects import Aspect, AspectSet, aspect_set
from recjax.guided.prompts import answer_form, question
from recjax.guided.score_files import write_scores
from recjax.llm_folders import load_llm
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.text.bpe import train_bpe

OWN = {
    "name": "reading", "item": "book", "items": "books",
    "aspects": ["tension", "pace", {"name": "length", "low": "short", "high": "long"}],
}  # fmt: skip


@pytest.fixture(scope="session")
def own_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("aspects") / "own.json"
    path.write_text(json.dumps(OWN))
    return path


@pytest.fixture(scope="session")
def own(own_file):
    return aspect_set(own_file)


@pytest.fixture(scope="session")
def scorer_folder(tmp_path_factory, own):
    """A random model as a folder of Hugging Face."""
    folder = tmp_path_factory.mktemp("scorer") / "hf"
    texts = [question(own, kind, "title: A").text for kind in ("item", "user")]
    answers = [answer_form(own).text([k, k, k]) for k in range(10)]
    tokenizer = train_bpe([*texts, *answers] * 5, 400)
    config = Config(
        vocab_size=tokenizer.size, dim=32, mlp_dim=48, layers=2, heads=4, kv_heads=2, head_dim=8,
        max_length=2048, init_std=0.3,
    )  # fmt: skip
    write_language_model(folder, language_model(config, params_of(Llama(config, rngs=nnx.Rngs(1)))))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def scorer(scorer_folder):
    return load_llm(scorer_folder)


@pytest.fixture
def endpoint(monkeypatch):
    """A server on loopback: `reply(user's message, number of the request) -> (status, text)`;
    a dict in the place of the text is the whole body."""
    from recjax.scoring import endpoint as client

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)

    class Server:
        reply = staticmethod(lambda asked, number: (200, "tension: 5\npace: 6\nlength: 7"))
        requests = ()
        url = ""

    Server.requests = []
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                Server.requests.append(body["messages"])
                number = len(Server.requests)
            status, text = Server.reply(body["messages"][-1]["content"], number)
            body = text if isinstance(text, dict) else {"choices": [{"message": {"content": text}}]}
            content = json.dumps(body)
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # a client that did not wait

        def log_message(self, *args):
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # a connection that a client closed before it asked

    running = Quiet(("127.0.0.1", 0), Handler)
    Server.url = f"http://127.0.0.1:{running.server_port}/v1"
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield Server
    running.shutdown()
    running.server_close()
    thread.join()


TASTES = AspectSet("tastes", tuple(Aspect(name) for name in ("pace", "tension", "length")))
ITEMS, USERS = 60, 80


@pytest.fixture(scope="session")
def tastes(tmp_path_factory):
    """A folder with `store`, `items.tsv` and `users.tsv`: each user chooses near a taste of theirs.

    Item i-k lacks a row in the files where k is 7; user u-3 lacks one, too.
    """
    folder = tmp_path_factory.mktemp("tastes")
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 11, (ITEMS, 3))
    wanted = rng.integers(1, 11, (USERS, 3))
    rows = ["user,item,timestamp"]
    for user in range(USERS):
        near = -((scores - wanted[user]) ** 2).sum(1) / 6.0
        chosen = rng.choice(ITEMS, 9, replace=False, p=np.exp(near) / np.exp(near).sum())
        rows += [f"u-{user},i-{item},{time}" for time, item in enumerate(chosen)]
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    keys = [f"i-{k}" for k in range(ITEMS) if k != 7]
    write_scores(folder / "items.tsv", keys, np.delete(scores, 7, axis=0), TASTES)
    keys = [f"u-{k}" for k in range(USERS) if k != 3]
    write_scores(folder / "users.tsv", keys, np.delete(wanted, 3, axis=0), TASTES, "user_id")
    options = {"user": "user", "item": "item", "timestamp": "timestamp"}
    prepare(DataConfig("table", str(folder / "store"), str(folder / "log.csv"), options=options))
    return folder


@pytest.fixture(scope="session")
def configured(tastes):
    """`configured(system, **sections) -> config` of a tiny run on `tastes`."""

    def make(system="guided", **sections):
        config = {
            "system": system,
            "data": {
                "source": "table", "path": str(tastes / "log.csv"), "store": str(tastes / "store"),
                "options": {"user": "user", "item": "item", "timestamp": "timestamp"},
            },
            "split": {"name": "rolling", "last": 2},
            "model": {"name": "sasrec", "dim": 12, "mlp_dim": 12, "layers": 1, "max_length": 8},
            "objective": {"name": "softmax"},
            "train": {"epochs": 2.0, "batch_size": 40, "steps_per_call": 1},
            "evaluation": {"batch_size": 64, "cutoffs": (1, 10)},
        }  # fmt: skip
        if system == "guided":
            config["guided"] = {"items": (f"scores:{tastes / 'items.tsv'}",), "vector": "recent:3"}
        return {**config, **sections}

    return make


@pytest.fixture(scope="session")
def trained(configured, tmp_path_factory):
    """Workdirs `base`, `joined` (user side by history) and `scored` (by the users' file)."""
    import recjax

    folder = tmp_path_factory.mktemp("runs")
    guided = configured()["guided"]
    users = guided["items"][0].replace("items.tsv", "users.tsv")
    recjax.train(configured("recommender"), folder / "base")
    recjax.train(configured(refine={"user": "joined"}), folder / "joined")
    scored = configured(guided={**guided, "vector": users}, refine={"user": "added", "alpha": 2.0})
    recjax.train(scored, folder / "scored")
    return folder
