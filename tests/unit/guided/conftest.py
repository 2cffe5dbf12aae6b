"""A tiny language model, a set of three aspects, and an endpoint on loopback."""

import http.server
import json
import threading

import pytest
from flax import nnx

from recjax.convert.language_model import language_model, write_language_model
from recjax.guided.aspects import aspect_set
from recjax.guided.prompts import answer_form, question
from recjax.llm import load_llm
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.text.tokenizers import train_bpe

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
    """A server on loopback: `reply(user's message, number of the request) -> (status, text)`."""
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
            content = json.dumps({"choices": [{"message": {"content": text}}]})
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # a client that did not wait

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Server.url = f"http://127.0.0.1:{running.server_port}/v1"
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield Server
    running.shutdown()
    running.server_close()
    thread.join()
