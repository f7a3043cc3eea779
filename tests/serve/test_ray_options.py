"""Arguments of the Ray application are those of `eyas.load` and `eyas serve`; no Ray is needed here."""

import pickle

import pytest
from pydantic import ValidationError

from eyas.api.llm import load
from eyas.config import options_of
from eyas.serve.ray_options import RayOptions


def test_every_argument_of_load_is_one_of_the_applications():
    names = [named.name for named in options_of(load)]
    assert list(RayOptions.model_fields) == [*names, "replicas", "settings"]
    assert RayOptions().to_load() == {named.name: named.default for named in options_of(load)}


def test_words_of_a_command_line_are_read():
    options = RayOptions.model_validate(
        {"threads": "2", "model": "m", "replicas": "3", "settings": {"keep": 1}}
    )
    assert (options.to_load()["threads"], options.to_load()["model"], options.replicas) == (2, "m", 3)
    assert options.to_settings().keep == 1
    assert pickle.loads(pickle.dumps(options)) == options  # it travels to the replicas


@pytest.mark.parametrize(
    ("given", "name"), [({"threads": 0}, "threads"), ({"thread": 1}, "thread"), ({"method": 3}, "method")]
)
def test_what_load_would_refuse_is_refused(given, name):
    with pytest.raises(ValidationError, match=name):
        RayOptions.model_validate(given)


def test_what_is_rays_own_is_not_a_setting():
    for name in ("port", "drain", "kep"):
        with pytest.raises(ValueError, match=f"'{name}' is not a setting of a replica; the"):
            RayOptions(settings={name: 1}).to_settings()
