"""Scores go out and come back."""

import json

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.guided.aspects import aspect_set, read_item_scores
from recjax.guided.score_files import write_scores

OWN = {"name": "songs", "item": "song", "items": "songs", "aspects": [{"name": "tempo"}, "mood"]}
CATALOG = [None, {"key": "a"}, {"key": "b"}, {"key": "c"}]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".parquet"])
def test_scores_go_out_and_come_back(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    own = tmp_path / "own.json"
    own.write_text(json.dumps(OWN | {"most": 20}))
    aspects, path = aspect_set(own), tmp_path / f"scores{ending}"
    write_scores(path, ["b", "a"], [[20, 2.5], [4, np.nan]], aspects)
    found = read_item_scores(path, CATALOG)
    assert found.aspects == aspects  # of the file beside it
    assert found.values.tolist() == [[12, 2.5], [4, 2.5], [20, 2.5], [12, 2.5]]
    assert found.known.tolist() == [[0, 0], [1, 0], [1, 1], [0, 0]]
    assert (found.missing, found.gaps) == (1, 1)
    assert "1 items have no scores; 1 single scores are missing: the mean" in found.says()
    attributes = found.attributes()
    assert attributes.known.tolist() == [False, True, True, False]
    standardized = attributes.standardized()
    assert standardized[:, 0].tolist() == [0, -1, 1, 0] and not standardized[3].any()


def test_what_cannot_be_written(tmp_path):
    aspects = aspect_set("movies")
    with pytest.raises(InputError, match="expected a name that ends in .tsv, .csv, .parquet"):
        write_scores(tmp_path / "s.txt", [], np.zeros((0, 12)), aspects)
    with pytest.raises(InputError, match="cannot write"):
        write_scores(tmp_path / "no" / "s.tsv", [], np.zeros((0, 12)), aspects)
    assert not list(tmp_path.iterdir())
