"""Systems by name."""

import argparse
import typing

import pytest

from recjax.errors import InputError
from recjax.lazy import resolve
from recjax.systems import COMMANDS, SYSTEMS, Command
from recjax.training.system import MAY_CHANGE, System, load_system


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_name_is_a_system(name):
    system = load_system(name)
    assert isinstance(system, System) and system.config.system == name


@pytest.mark.parametrize("name", ["interpretor", 3, ["recommender"], None])
def test_other_names_are_an_error(name):
    with pytest.raises(InputError, match="config.system: no system"):
        load_system(name)


@pytest.mark.parametrize("name", SYSTEMS)
def test_keys_that_may_change_are_keys(name):
    """A key that no config has would let nothing change, and nobody would notice."""
    system = load_system(name)
    trains = "optim" in typing.get_type_hints(system.config)  # and does not only count
    for key in (*MAY_CHANGE * trains, *system.may_change):
        cls = system.config
        *sections, last = key.split(".")
        for section in sections:
            if cls is dict:
                break
            hint = typing.get_type_hints(cls)[section]
            cls = next((part for part in typing.get_args(hint) if part is not type(None)), hint)
        # A section that is a dict is one of several kinds.
        assert cls is dict or last in typing.get_type_hints(cls), key
    assert system.learns in typing.get_type_hints(system.config)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_flags_and_help(name):
    command = resolve(COMMANDS[name])
    parser = argparse.ArgumentParser()
    command.add_flags(parser)
    assert isinstance(command, Command) and command.help
    action = next(a for a in parser._actions if a.required)
    assert action.option_strings == ["--workdir"] or not action.option_strings
