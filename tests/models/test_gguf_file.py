"""A GGUF header is read strictly: whatever is wrong with it is one line, soon and in little memory."""

import os
import random
import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest

from eyas.errors import ModelError
from eyas.models.families import read_spec
from eyas.models.gguf_file import MAX_ITEMS, MAX_KEYS, MAX_TENSORS, GGUFFile
from tiny_gguf import write_gguf

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
F32, Q8_0, IQ1_S = 0, 8, 19


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def number(key, value, kind=UINT32, layout="<I"):
    return text(key) + struct.pack("<I", kind) + struct.pack(layout, value)


def tensor(name, shape=(32, 2), kind=F32, offset=0, rank=None):
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", rank or len(shape)) + dims + struct.pack("<IQ", kind, offset)


def file_of(fields=(), tensors=(), *, data=1024, magic=b"GGUF", version=3, counts=None):
    """The bytes of a file."""
    counts = counts or (len(tensors), len(fields))
    head = magic + struct.pack("<I", version) + struct.pack("<QQ", *counts)
    head += b"".join(fields) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def read(path, content):
    path.write_bytes(content)
    return GGUFFile(path)


FIELDS = [
    number("a.number", 7),
    number("a.large", 2**63, UINT64, "<Q"),
    number("a.real", 0.5, FLOAT32, "<f"),
    number("a.flag", 1, BOOL, "<B"),
    text("a.name") + struct.pack("<I", STRING) + text("straße"),
    text("a.names") + struct.pack("<IIQ", ARRAY, STRING, 3) + text("x") + text("") + text("äö"),
    text("a.numbers") + struct.pack("<IIQ3f", ARRAY, FLOAT32, 3, 1.0, 2.0, -3.0),
]
TENSORS = [tensor("one"), tensor("two", (64, 3), Q8_0, 256), tensor("three", (5,), F32, 480)]


def test_values_are_those_that_were_written(tmp_path):
    file = read(tmp_path / "a.gguf", file_of(FIELDS, TENSORS))
    assert dict(file.fields) == {
        "a.number": 7,
        "a.large": 2**63,
        "a.real": 0.5,
        "a.flag": True,
        "a.name": "straße",
        "a.names": ["x", "", "äö"],
        "a.numbers": [1.0, 2.0, -3.0],
    }
    assert {name: (place.format, place.shape) for name, place in file.tensors.items()} == {
        "one": ("float32", (2, 32)),
        "two": ("Q8_0", (3, 64)),
        "three": ("float32", (5,)),
    }
    assert file.tensors["two"].num_bytes == 3 * 2 * 34


def test_the_library_reads_the_same(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType.Q5_1)
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    wanted = {name: f.contents() for name, f in theirs.fields.items() if not name.startswith("GGUF.")}
    assert dict(ours.fields) == wanted
    assert list(ours.tensors) == [each.name for each in theirs.tensors]
    for each in theirs.tensors:
        found = ours.data(ours.tensors[each.name])
        np.testing.assert_array_equal(found, each.data.reshape(-1).view(np.uint8), err_msg=each.name)


def test_an_alignment_of_its_own(tmp_path):
    content = file_of([number("general.alignment", 256)], [tensor("x", (4,))], data=0)
    start = -(-len(content) // 256) * 256
    content = content.ljust(start, b"\0") + np.arange(4, dtype=np.float32).tobytes()
    file = read(tmp_path / "a.gguf", content)
    np.testing.assert_array_equal(file.data(file.tensors["x"]).view(np.float32), np.arange(4))


BROKEN = {
    "is no GGUF file: it begins with b'ggml'": file_of(magic=b"ggml"),
    "is no GGUF file: it begins with b''": b"",
    "is truncated: 10 bytes": file_of()[:10],
    "is big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(100),
    "has GGUF version 1; versions 2 and 3 are read": file_of(version=1),
    "has GGUF version 4": file_of(version=4),
    "has GGUF version 0": file_of(version=0),
    f"says that it has {2**40} keys, and {MAX_KEYS} are the most": file_of(counts=(0, 2**40)),
    f"says that it has {2**63} tensors, and {MAX_TENSORS} are the most": file_of(counts=(2**63, 0)),
    "bytes do not hold its header": file_of(counts=(0, 60_000)),
    "a.number": file_of([FIELDS[0], FIELDS[0]]),
    "has a value of type 77 for a.key": file_of([number("a.key", 1, 77)]),
    "an array of type 9 for a.key": file_of([text("a.key") + struct.pack("<IIQ", ARRAY, ARRAY, 1)]),
    f"items in a.key, and {MAX_ITEMS} are the most": file_of(
        [text("a.key") + struct.pack("<IIQ", ARRAY, STRING, 2**62)]
    ),
    "1088 bytes do not hold its header": file_of(
        [text("a.key") + struct.pack("<IIQQ", ARRAY, STRING, 1, 2**64 - 1)]
    ),
    "holds text in a.key that is not UTF-8": file_of(
        [text("a.key") + struct.pack("<I", STRING) + text(b"\xff")]
    ),
    "has a key whose name is no text": file_of([number(b"\xff", 1)]),
    "has a tensor whose name is no text": file_of(tensors=[tensor("a\nb")]),
    "has a name of": file_of([number("k" * 70_000, 1)]),
    "general.alignment 24": file_of([number("general.alignment", 24)]),
    "general.alignment 0": file_of([number("general.alignment", 0)]),
    "general.alignment 0.5": file_of([number("general.alignment", 0.5, FLOAT32, "<f")]),
    "has two tensors called one": file_of(tensors=[TENSORS[0], TENSORS[0]]),
    "of type 99, which eyas does not know": file_of(tensors=[tensor("x", kind=99)]),
    "of 0 dimensions": file_of(tensors=[tensor("x", ())]),
    "of 5 dimensions": file_of(tensors=[tensor("x", (2, 2, 2, 2, 2))]),
    "without numbers": file_of(tensors=[tensor("x", (4, 0))]),
    "which is not aligned": file_of(tensors=[tensor("x", offset=8)]),
    "rows of 33 numbers do not divide into Q8_0 blocks": file_of(tensors=[tensor("x", (33, 2), Q8_0)]),
    "is truncated: it has 1088 bytes, and x ends at": file_of(tensors=[tensor("x", (2**20,))]),
    f"and x ends at {96 + 4 * 2**126}": file_of(tensors=[tensor("x", (2**63, 2**63))]),
    f"and x ends at {96 + 2**64 - 32 + 256}": file_of(tensors=[tensor("x", offset=2**64 - 32)]),
    f"and x ends at {64 + 2**20 + 1}": file_of(tensors=[tensor("x", (256,), IQ1_S, 2**20)]),
    "overlap: one and two": file_of(tensors=[tensor("one"), tensor("two", offset=224)]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_wrong_is_said_in_one_line(message, tmp_path):
    path = tmp_path / "a.gguf"
    with pytest.raises(ModelError) as caught:
        read(path, BROKEN[message])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_in_an_array_is_checked_when_it_is_read(tmp_path):
    broken = text("a.key") + struct.pack("<IIQ", ARRAY, STRING, 1) + text(b"\xff\xfe")
    file = read(tmp_path / "a.gguf", file_of([broken, *FIELDS]))
    assert file.fields["a.names"] == ["x", "", "äö"]
    with pytest.raises(ModelError, match=r"text in a\.key that is not UTF-8"):
        file.fields["a.key"]


def test_places_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(ModelError, match="cannot be read"):
            GGUFFile(path)


@pytest.mark.parametrize("how", ["grown", "shrunk", "written"])
def test_a_file_that_changes_in_use(how, tmp_path):
    path = tmp_path / "a.gguf"
    file = read(path, file_of(FIELDS, TENSORS))
    file.data(file.tensors["one"])
    with path.open("r+b") as stream:
        if how == "shrunk":
            stream.truncate(100)
        else:
            stream.seek(0, os.SEEK_END if how == "grown" else os.SEEK_SET)
            stream.write(b"x")
    os.utime(path, ns=(1, 1))
    for use in (lambda: file.data(file.tensors["one"]), lambda: file.fields["a.names"]):
        with pytest.raises(ModelError, match="has changed while it was in use; load the model again"):
            use()


def test_a_vocabulary_is_read_in_no_time(tmp_path):
    """The library takes eight seconds for as many tokens and merges as Qwen has."""
    names = b"".join(text(f"token{index}") for index in range(150_000))
    fields = [text(f"a.{key}") + struct.pack("<IIQ", ARRAY, STRING, 150_000) + names for key in "xy"]
    content = file_of(fields)
    seconds = []
    for _ in range(3):  # the machine may be busy
        began = time.process_time()
        file = read(tmp_path / "a.gguf", content)
        assert len(file.fields["a.x"]) == len(file.fields["a.y"]) == 150_000
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1.0


def mutated(content, header, generator):
    """A copy with some bytes of the header changed, cut out, repeated, or replaced by large numbers."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4, 16))):
        at = generator.randrange(header)
        match generator.randrange(6):
            case 0:
                data[at] ^= 1 << generator.randrange(8)
            case 1:
                data[at] = generator.randrange(256)
            case 2:
                data[at : at + 8] = struct.pack("<Q", generator.choice(LARGE))
            case 3:
                del data[at : at + generator.choice((1, 4, 8, 1000))]
            case 4:
                data[at:at] = data[at : at + generator.choice((1, 8, 100))]
            case 5:
                del data[generator.randrange(len(data)) :]
        header = max(1, min(header, len(data)))
        if not data:
            break
    return bytes(data)


LARGE = (0, 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def fuzz(path, count, seed):
    """Read mutated headers: each is a ModelError of one line or a model, within 2 seconds and 64 MiB."""
    whole = write_gguf(path.with_name("whole.gguf"), kind=gguf.GGMLQuantizationType.Q8_0)
    content = whole.read_bytes()
    header = min(place.start for place in GGUFFile(whole).tensors.values())
    generator, refused = random.Random(seed), 0
    tracemalloc.start()
    try:
        for index in range(count):
            path.unlink(missing_ok=True)  # a new inode: the old one may still be mapped
            path.write_bytes(mutated(content, header, generator))
            tracemalloc.reset_peak()
            began = time.process_time()
            message = None
            try:
                file = GGUFFile(path)
                dict(file.fields)
                for place in file.tensors.values():
                    file.data(place)
                read_spec(path)
            except ModelError as error:
                message = str(error)
            refused += message is not None
            assert message is None or message.isprintable(), index
            assert time.process_time() - began < 2, index
            assert tracemalloc.get_traced_memory()[1] < 64 << 20, index
    finally:
        tracemalloc.stop()
    assert count // 4 < refused < count


def test_mutated_headers_are_refused_or_harmless(tmp_path):
    fuzz(tmp_path / "a.gguf", 300, seed=0)


@pytest.mark.slow
def test_ten_thousand_mutated_headers(tmp_path):
    fuzz(tmp_path / "a.gguf", int(os.environ.get("EYAS_FUZZ", "10000")), seed=1)
