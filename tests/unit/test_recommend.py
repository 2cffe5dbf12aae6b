"""`recjax recommend`: to whom, among what, into a file or a table."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from recjax.data.prepare import prepare
from recjax.errors import InputError
from recjax.evaluation.lists import Recommendations, TopLists
from recjax.recommend import format_lists, recommend, split_keys
from recjax.training.checkpoint import Checkpoints
from recjax.training.language_model import LanguageRun
from recjax.training.loop import Progress
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config, open_run, write_records

TITLES = {"i0": "Tea, black", "i1": 'A "cup"\nof tea', "i2": "Über", "i3": None}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of own data with fresh weights: keys and titles with commas, quotes and line ends."""
    folder = tmp_path_factory.mktemp("recommend")
    rng = np.random.default_rng(0)
    rows = [
        [f"u{u}" if u else "u,0", f"i{i}" if i != 5 else "i,5", t, TITLES.get(f"i{i}", f"Item {i}")]
        for u in range(40)
        for t, i in enumerate(rng.choice(12, 5, replace=False))
    ]
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["user", "item", "timestamp", "title"], *rows])
    config = build_config({
        "data": {"source": "table", "store": str(folder / "store"), "path": str(folder / "log.csv"),
                 "options": {"title": "title"}},
        "model": {"name": "gru4rec", "dim": 8, "max_length": 4},
        "evaluation": {"batch_size": 16},
    })  # fmt: skip
    (folder / "run").mkdir()
    run = RecommenderRun(config, prepare(config.data), folder / "run")
    write_records(run, folder / "run")
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    progress, state = Progress(best_step=1, best_value=0.5), run.init_state()
    meta = {**run.identity, "progress": dataclasses.asdict(progress)}
    for step in (1, 2):  # the newest is not the best
        checkpoints.save(step, state, meta, 1)
    checkpoints.wait()
    checkpoints.close()
    return folder / "run"


@pytest.mark.devices
def test_several_devices_split_what_a_mesh_says(recjax, workdir):
    """Items over two devices and rows over four rank as rows over all of them do."""
    flags = (f"--workdir={workdir}", "--json")
    metrics, lists = recjax("evaluate", *flags)[1], recjax("recommend", *flags, "--k=3")[1]
    assert recjax("evaluate", *flags, "--mesh=4,1,2")[1] == pytest.approx(metrics, abs=1e-6)
    found = recjax("recommend", *flags, "--k=3", "--mesh=4,1,2")[1]
    assert [r["items"] for r in found["lists"]] == [r["items"] for r in lists["lists"]]
    table = open_run(workdir, (4, 1, 2)).restore(1)["items/embedding"]
    assert table.sharding.shard_shape(table.shape) == (table.shape[0] // 2, 8)
    for mesh, message in {
        "3,1,1": "--mesh (3, 1, 1) does not fit 8 devices",
        "8": "mesh 8: expected three sizes, data,fsdp,tensor",
        "0,1,1": "mesh 0,1,1: expected three sizes",
    }.items():
        for command in ("evaluate", "recommend"):
            status, _, err = recjax(command, *flags, f"--mesh={mesh}")
            assert status == 2 and message in err


def test_all_users_into_a_file(recjax, workdir, tmp_path):
    out = tmp_path / "recs.csv"
    command = ("recommend", f"--workdir={workdir}", "--k=3", f"--out={out}", "--json")
    status, done, err = recjax(*command)
    assert status == 0, err
    assert done == {"users": 40, "k": 3, "step": 1, "out": str(out)}
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    run = open_run(workdir)
    expected = run.recommend(k=3)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user"] for row in rows] == [user for user in run.store.user_keys for _ in range(3)]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 40
    for column, lists in (("item", expected.keys), ("title", expected.titles)):
        assert [row[column] or None for row in rows] == [value for one in lists for value in one]
    np.testing.assert_array_equal(
        np.float32([row["score"] for row in rows]), expected.scores.reshape(-1)
    )
    status, _, err = recjax(*command)
    assert status == 2 and "exists already; --overwrite replaces it" in err


def test_some_users_in_their_order_and_candidates(recjax, workdir, tmp_path):
    users, among = tmp_path / "users.txt", tmp_path / "among.txt"
    users.write_text("\ufeffu7\n  u,0\r\n\nu7\n", encoding="utf-8")
    among.write_text("i1\ni,5\ni3\ni4\n")
    out = tmp_path / "recs.jsonl"
    command = ("recommend", f"--workdir={workdir}", f"--users={users}", f"--among={among}")
    assert recjax(*command, f"--out={out}")[0] == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["user"] for record in records] == ["u7", "u,0", "u7"]
    run = open_run(workdir)
    expected = run.recommend(["u7", "u,0"], among=["i1", "i,5", "i3", "i4"])
    assert [record["items"] for record in records[:2]] == expected.keys
    assert recjax(*command, f"--out={out}", "--with-seen", "--overwrite")[0] == 0
    for line in out.read_text().splitlines():
        assert sorted(json.loads(line)["items"]) == ["i,5", "i1", "i3", "i4"]


def test_a_table_of_histories(recjax, workdir):
    status, done, err = recjax(
        "recommend",
        f"--workdir={workdir}",
        '--history=i1,"i,5"',
        "--history=i4",
        "--k=99",
        "--json",
    )
    assert status == 0
    assert [one["history"] for one in done["lists"]] == [1, 2] and done["histories"] == 2
    keys = open_run(workdir).recommend([["i1", "i,5"], ["i4"]], k=99).keys
    assert [one["items"] for one in done["lists"]] == keys
    assert [len(one) for one in keys] == [10, 11]
    lines = err.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["history 1", "history 2"]
    assert "  Tea, black" in err
    assert len(lines) == 2 + 10 + 11


def test_a_table_is_text_that_no_terminal_obeys():
    catalog = [None, {"key": "a\x1b[2J", "title": "x\ny" * 99}, {"key": "b", "title": None}]
    ids, scores = np.array([[1, 2], [0, 0]]), np.zeros((2, 2), np.float32)
    lines = format_lists(Recommendations(ids, scores, catalog, ["u\u202e", "v"])).split("\n")
    assert lines[0] == "user u\\u202e" and lines[1].startswith("   1    0.0000  a\\x1b[2J  x\\ny")
    assert lines[2:] == ["   2    0.0000  b", "user v", "    no item is left to recommend"]
    assert max(map(len, lines)) < 120


def test_a_table_shows_a_few_users(recjax, workdir):
    command = ("recommend", f"--workdir={workdir}", "--k=2")
    status, _, err = recjax(*command)
    assert status == 0 and "10 of 40 users; --out FILE writes all" in err
    assert recommend(workdir, k=2)["lists"] == recommend(workdir, k=2, every=True)["lists"][:10]
    # A program reads all of them.
    status, done, err = recjax(*command, "--json")
    assert status == 0 and done["users"] == 40 and len(done["lists"]) == 40
    assert err.count("user ") == 10


def test_what_is_unknown_may_be_left_out(recjax, workdir, tmp_path):
    users, among = tmp_path / "users.txt", tmp_path / "among.txt"
    users.write_text("nobody\nu7\nnobody\nu1\n")
    among.write_text("i1\nx\ni3\ni4\n")
    flags = (f"--workdir={workdir}", "--skip-unknown", "--json")
    given = (f"--users={users}", f"--among={among}", "--with-seen")
    status, done, err = recjax("recommend", *flags, *given)
    assert status == 0, err
    assert [one["user"] for one in done["lists"]] == ["u7", "u1"] and done["users"] == 2
    assert all(sorted(one["items"]) == ["i1", "i3", "i4"] for one in done["lists"])
    assert done["left_out"] == {"unknown_users": 1, "unknown_among": 1}
    told = "left out: unknown users: 1; candidates that the model does not know: 1\n"
    assert err.startswith(told)
    # A history keeps its number.
    given = ("--history=x,y", "--history=i1,x,i2", "--history=i4")
    status, done, err = recjax("recommend", *flags, *given)
    assert status == 0 and [one["history"] for one in done["lists"]] == [2, 3]
    assert done["left_out"] == {"unknown_items": 2, "empty": 1} and "history 2" in err
    run = open_run(workdir)
    expected = run.recommend([["i1", "i2"], ["i4"]], k=10)
    assert [one["items"] for one in done["lists"]] == expected.keys
    found = run.recommend([["x"], ["i1", "x", "i2"], ["i4"]], k=10, skip_unknown=True)
    assert found.keys == expected.keys and found.numbers == [2, 3]
    assert recjax("recommend", *flags)[1]["left_out"] == {}
    for given, message in {
        "--history=x": "nobody is left to recommend to; items that the model does not know: 1",
        f"--among={users}": "no item that may be recommended; the data have none of them",
    }.items():
        status, _, err = recjax("recommend", *flags, given)
        assert status == 2 and message in err


def test_users_of_a_new_log(recjax, workdir, tmp_path):
    """Their whole new histories, in time order, of the items that the model knows."""
    log, out, users = (tmp_path / name for name in ("today.csv", "recs.csv", "users.txt"))
    rows = ["u7,i4,9", "u7,i1,8", "new,i2,1", "new,fresh,2", "other,fresh,5", '7,"i,5",3']
    log.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")  # no title is needed
    flags = ("recommend", f"--workdir={workdir}", f"--log={log}", "--k=4", "--json")
    status, done, err = recjax(*flags, f"--out={out}")
    assert status == 0, err
    assert done["users"] == 3
    assert done["left_out"] == {"unknown_items": 1, "interactions": 2, "empty": 1}
    run = open_run(workdir)
    expected = run.recommend([["i,5"], ["i2"], ["i1", "i4"]], k=4)
    with out.open(newline="") as file:
        found = [(row["user"], row["item"]) for row in csv.DictReader(file)]
    keys = zip(("7", "new", "u7"), expected.keys, strict=True)
    assert found == [(user, item) for user, items in keys for item in items]
    users.write_text("u7\nother\n7\n")
    status, done, _ = recjax(*flags, f"--users={users}")
    assert status == 0 and [one["user"] for one in done["lists"]] == ["u7", "7"]
    spans = run.request(log=log).spans
    assert spans.users.tolist() == [-1, -1, run.store.user_numbers["u7"]]
    assert spans.times is None
    run.timed = True  # a model that reads times has those of the log
    assert run.request(log=log).spans.times.tolist() == [3, 1, 8, 9]
    run.timed = False
    by_name = run.recommend(["u7"], k=4, log=log)
    assert by_name.users == ["u7"] and by_name.keys == [expected.keys[2]]
    users.write_text("u7\nu1\n")
    status, _, err = recjax(*flags, f"--users={users}")
    assert status == 2 and "users.txt: 1 user that is not in the log: 'u1'" in err
    assert recjax(*flags, f"--users={users}", "--skip-unknown")[1]["left_out"]["unknown_users"] == 1
    status, _, err = recjax(*flags, "--history=i1")
    assert status == 2 and "--log and --history exclude each other" in err
    log.write_text("user,item,timestamp\nu1,fresh,1\n")
    status, _, err = recjax(*flags)
    assert status == 2 and f"{log}: nobody is left to recommend to; items that" in err
    log.write_text("user,item,timestamp\nu1,i1,soon\n")
    status, _, err = recjax(*flags)
    assert status == 2 and f"{log}:2: 'timestamp' is 'soon'" in err
    status, _, err = recjax(*flags[:2], "--log=nowhere.csv")
    assert status == 2 and "--log: no file or folder nowhere.csv" in err


def test_a_new_log_is_filtered_as_the_runs_own(tmp_path, workdir):
    """Ratings and repeats count as before; dates and the k-core choose training data alone."""
    from recjax.data.new_log import read_log
    from recjax.data.prepare import DataConfig

    store, log = open_run(workdir).store, tmp_path / "log.csv"
    rows = ["u,i1,1,5", "u,i2,2,1", "u,i1,3,4", "v,i3,4,5"]
    log.write_text("user,item,timestamp,stars\n" + "\n".join(rows) + "\n")
    config = DataConfig(
        "table", "x", options={"rating": "stars", "title": "title", "items": "items.csv"},
        min_rating=4, deduplicate="last", k_core_users=2, since="2024-01-01",
    )  # fmt: skip
    found = read_log(store, config, log)
    assert found.user_keys == ["u", "v"] and found.offsets.tolist() == [0, 1, 2]
    assert [store.catalog[item]["key"] for item in found.items] == ["i1", "i3"]
    assert found.timestamps.tolist() == [3, 4]
    with pytest.raises(InputError, match=r"no interaction is left; check config.data.min_rating"):
        read_log(store, dataclasses.replace(config, min_rating=6), log)
    with pytest.raises(InputError, match="log: the run's data are simulated"):
        read_log(store, DataConfig("simulated", "x"), log)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=recs.txt"], "--out recs.txt: expected a name that ends in .csv, .jsonl, .parquet"),
        (["--out=folder.csv", "--overwrite"], "--out folder.csv: is a folder"),
        (
            ["--users=users.txt"],
            "users.txt: 2 users that are not in the data: 'nobody', 'no\\x1bne'",
        ),
        (["--users=missing.txt"], "missing.txt: no such file"),
        (["--users=blank.txt"], "blank.txt: the file is empty"),
        (["--users=latin.txt"], "latin.txt:2: not utf-8 text"),
        (["--among=users.txt"], "users.txt: 3 items that are not in the data: 'u1', 'nobody'"),
        (
            ["--history=i1,x,y", "--history=x"],
            "--history: 2 items that are not in the data: 'x', 'y",
        ),
        (["--history=I1,i2"], "1 item that is not in the data: 'I1'; did you mean 'i1'?"),
        (["--history=i1,,i2"], "--history 'i1,,i2': an empty key"),
        (["--history="], "--history '': an empty key"),
        (['--history="i1'], "expected item keys with commas between them; a double quote is open"),
        (["--history=i1", "--users=users.txt"], "--users and --history exclude each other"),
        (["--k=0"], "k: expected a whole number from 1, got 0"),
        (["--k=many"], "argument --k: invalid int value: 'many'"),
        (["--step=999"], "no complete checkpoint of step 999"),
        (["--config.seed=1"], "recommend takes no --config.KEY"),
    ],
)
def test_bad_usage_is_one_line_before_anything_is_written(
    recjax, workdir, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "users.txt").write_text("u1\nnobody\nno\x1bne\n")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"u1\nu\xff\n")
    before = sorted(tmp_path.iterdir())
    if not any(a.startswith("--out") for a in arguments):
        arguments = [*arguments, "--out=recs.csv"]
    status, done, err = recjax("recommend", f"--workdir={workdir}", *arguments)
    assert (status, done) == (2, None)
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("recjax: ")
    assert sorted(tmp_path.iterdir()) == before


def test_what_fails_while_it_is_written_leaves_the_old_file(workdir, tmp_path, monkeypatch):
    out = tmp_path / "recs.csv"
    recommend(workdir, out, k=2)
    before = out.read_bytes()

    def broken(self, *args, **options):
        yield from list(real(self, *args, **options))[:1]
        raise InputError("the model's scores are no numbers")

    real = TopLists.stream
    monkeypatch.setattr(TopLists, "stream", broken)
    with pytest.raises(InputError, match="no numbers"):
        recommend(workdir, out, k=2, overwrite=True)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["recs.csv"]


def test_runs_of_other_systems(recjax, tmp_path, sample_store):
    """One line, of a language model's run as of an interpreter's (its own tests)."""
    config = build_config({
        "system": "language_model",
        "data": {"source": "simulated", "store": str(sample_store.path)},
        "model": {"name": "llama", "dim": 8},
    })  # fmt: skip
    write_records(LanguageRun(config, sample_store), tmp_path)
    status, _, err = recjax("recommend", f"--workdir={tmp_path}", f"--out={tmp_path / 'recs.csv'}")
    assert status == 2 and "a run of another kind; expected a recommender's" in err
    assert not (tmp_path / "recs.csv").exists()


def test_keys_of_a_history():
    assert split_keys("a") == ["a"]
    assert split_keys(' a, "b,c" ,"d""e"') == ["a", "b,c", 'd"e']
    assert split_keys("1,2") == ["1", "2"]
