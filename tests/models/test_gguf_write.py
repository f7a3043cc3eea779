"""Files that eyas writes are read the same by its own strict reader and by the gguf package."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.models.gguf_file import GGUFFile
from eyas.models.gguf_write import write_gguf
from eyas.models.weights import BFLOAT16

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
values = st.one_of(
    text,
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
    st.lists(text, min_size=1, max_size=4),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
)


@settings(max_examples=40)
@given(
    fields=st.dictionaries(st.from_regex(r"[a-z]{1,9}\.[a-z]{1,9}", fullmatch=True), values, max_size=6),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), max_size=5),
    dtype=st.sampled_from([np.float32, BFLOAT16, np.int64]),
)
def test_a_file_holds_what_it_was_made_of(tmp_path_factory, fields, shapes, dtype):
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    rng = np.random.default_rng(0)
    tensors = {
        f"t{number}.weight": rng.integers(-99, 99, shape).astype(dtype) for number, shape in enumerate(shapes)
    }
    fields = {"general.architecture": "none"} | fields
    write_gguf(path, fields, tensors)
    file = GGUFFile(path)
    assert dict(file.fields) == fields
    assert [type(value) for value in file.fields.values()] == [type(value) for value in fields.values()]
    assert list(file.tensors) == list(tensors)
    for name, array in tensors.items():
        place = file.tensors[name]
        assert place.shape == array.shape
        assert file.data(place).tobytes() == array.tobytes()
    reader = gguf.GGUFReader(path)
    assert {name: reader.get_field(name).contents() for name in fields} == fields
    for tensor in reader.tensors:
        assert tensor.data.tobytes() == tensors[tensor.name].tobytes()


@pytest.mark.parametrize(("value", "kind"), [(np.uint64(2**40), "UINT64"), (np.float64(0.5), "FLOAT64")])
def test_numpy_numbers_keep_their_type(tmp_path, value, kind):
    write_gguf(tmp_path / "x.gguf", {"general.architecture": "none", "a.b": value}, {})
    [found] = gguf.GGUFReader(tmp_path / "x.gguf").fields["a.b"].types
    assert found.name == kind
