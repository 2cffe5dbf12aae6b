"""A run of the source "tasks": what its parts lack, where its files are, which titles fit."""

import json
import shutil

import pytest

from recjax.config import build
from recjax.errors import InputError
from recjax.recsysllm.mixed import Mixed, MixedOptions
from recjax.recsysllm.pretrain import OWN
from recjax.recsysllm.run import BlankRun
from recjax.recsysllm.settings import BlankRunConfig
from recjax.recsysllm.tasks import TasksConfig
from recjax.training.ranking_run import SplitConfig
from recjax.training.workdir import build_config, complete, start_run


def test_a_family_without_data_in_a_part_is_left_out_there(untrained, reviews, store, tmp_path):
    held_out = untrained.split.validation
    owners, stops = held_out.users.tolist(), held_out.stops.tolist()
    keys = store.user_keys, [record and record["key"] for record in store.catalog]
    pairs = {(keys[0][u], keys[1][store.items[k]]) for u, k in zip(owners, stops, strict=True)}
    rows = [json.loads(line) for line in reviews.read_text().splitlines()]
    file = tmp_path / "reviews.jsonl"
    kept = [row for row in rows if (row["user"], row["item"]) not in pairs]
    file.write_text("\n".join(map(json.dumps, kept)))
    tasks = TasksConfig(text=0, sequential=1, review=1, reviews=str(file))
    source = Mixed(MixedOptions(tasks=tasks), store, SplitConfig(), 0)
    assert {source.stream(place).kind for place in range(20)} == {"sequential", "review"}
    with pytest.warns(UserWarning, match=r"tasks.review: nothing of the validation has what its"):
        assert {p.kind for p in source.held_out("validation", 9, 0)} == {"sequential"}
    assert {p.kind for p in source.held_out("test", 9, 0)} == {"sequential", "review"}


def test_a_run_goes_on_with_moved_files(trained, section, reviews, tmp_path):
    """With other reviews it does not."""
    workdir, file = tmp_path / "run", tmp_path / "moved.jsonl"
    shutil.copytree(trained[0].workdir, workdir)
    file.write_text(reviews.read_text())
    made = {"system": "recsysllm", **section()}
    made["text"]["tasks"]["reviews"] = str(file)
    config = build_config(complete(made))
    start_run(config, workdir).claim.abandon()
    file.write_text(reviews.read_text().replace("boring", "boringly"))
    with pytest.raises(InputError, match="a checkpoint of another"):
        start_run(config, workdir)


def test_titles_are_no_longer_than_an_answer_may_be(untrained, section, store):
    longest = untrained.batches.blanking.pool.longest
    for length in (longest + OWN, longest + OWN - 1):
        made = {**section(), "length": length, "blanks": {"sentence": 1.0}}
        run = BlankRun(build(BlankRunConfig, made, "config"), store)
        if length == longest + OWN:
            assert run.batches.blanking.length == length
            assert run.batches.blanking.ends is run.batches.ends  # decoded once
            continue
        with pytest.raises(InputError, match=f"entity .*expected 1 to {longest - 1}, for no"):
            run.batches  # noqa: B018
