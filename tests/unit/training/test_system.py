"""Systems by name."""

import pytest

from recjax.errors import InputError
from recjax.training.system import SYSTEMS, System, load_system


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_name_is_a_system(name):
    system = load_system(name)
    assert isinstance(system, System) and system.config.system == name


@pytest.mark.parametrize("name", ["interpretor", 3, ["recommender"], None])
def test_other_names_are_an_error(name):
    with pytest.raises(InputError, match="config.system: no system"):
        load_system(name)
