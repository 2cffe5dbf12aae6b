"""`config.start` with a grown catalogue: known items and users keep their vectors."""

import dataclasses

import numpy as np
import pytest

from recjax.data.prepare import prepare
from recjax.errors import InputError
from recjax.training.checkpoint import Checkpoints
from recjax.training.loop import Progress
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config, write_records

MODELS = {
    "sasrec": {"layers": 1},
    "hgn": {},  # with an output table, a bias by item, and vectors of users
}


def make(folder, name, rows, workdir=None, start=""):
    path = folder / f"{name}.csv"
    path.write_text("user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for t, (u, i) in rows))
    data = {"source": "table", "path": str(path), "store": str(folder / f"{name}-store")}
    model = {"name": folder.name, "dim": 8, "max_length": 6, **MODELS[folder.name]}
    config = build_config({"data": data, "model": model, "start": start, "seed": len(name)})
    return RecommenderRun(config, prepare(config.data), workdir)


@pytest.fixture(params=MODELS)
def runs(request, tmp_path):
    """`(old, new)`: ids and numbers of what the old one knows have moved; i7 and u3 are gone."""
    folder, work = tmp_path / request.param, tmp_path / "run"
    folder.mkdir()
    work.mkdir()
    pairs = [(f"u{u}", f"i{(u + t) % 9}") for u in range(12) for t in range(5)]
    old = make(folder, "old", enumerate(pairs), work)
    write_records(old, work)
    checkpoints = Checkpoints(work / "checkpoints")
    meta = {**old.identity, "progress": dataclasses.asdict(Progress())}
    checkpoints.save(3, old.init_state(), meta, 3)
    checkpoints.wait()
    checkpoints.close()
    grown = [pair for pair in pairs if pair[0] != "u3" and pair[1] != "i7"]
    grown += [("a-new", f"a{n}") for n in range(3)] + [("b-new", "a0"), ("u5", "z")]
    return old, make(folder, "newer", enumerate(grown), start=str(work))


def test_rows_go_by_raw_keys(runs):
    old, new = runs
    new.check()
    found, learned = new.init_state().params, old.restore(3)
    fresh = RecommenderRun(dataclasses.replace(new.config, start=""), new.store).init_state().params
    ids = {key: id for key, id in new.store.item_ids.items() if key in old.store.item_ids}
    assert len(ids) == 8 and ids["i0"] != old.store.item_ids["i0"]
    tables = [path for path in ("items/embedding", "outputs/embedding", "bias") if path in found]
    assert len(tables) == (3 if "users/embedding" in found else 1)
    for path in tables:
        table = np.asarray(learned[path])
        for key, id in ids.items():
            np.testing.assert_array_equal(found[path][id], table[old.store.item_ids[key]])
        others = np.setdiff1d(np.arange(1, new.store.n_items), list(ids.values()))
        np.testing.assert_array_equal(found[path][others], fresh[path][others])
        np.testing.assert_array_equal(found[path][0], table[0])
    if "users/embedding" in found:
        numbers = (new.store.user_numbers["u5"], old.store.user_numbers["u5"])
        assert numbers[0] != numbers[1]
        users = found["users/embedding"], learned["users/embedding"]
        np.testing.assert_array_equal(users[0][numbers[0]], users[1][numbers[1]])
        assert len(users[0]) == new.store.n_users != len(users[1])
    for path in found.keys() - {*tables, "users/embedding"}:
        np.testing.assert_array_equal(found[path], learned[path])


def test_the_old_data_must_be_there(runs, tmp_path):
    old, new = runs
    old.store.path.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"config.start: .*old-store"):
        new.check()
