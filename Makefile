.DEFAULT_GOAL := help
PYTHON ?= python
NATIVE := $(wildcard native/*.cpp native/*.h native/*.inl native/*/*.inl) tests/runtimes/native/kernel_digests.cpp

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: ## install everything for development into the current environment
	$(PYTHON) -m pip install "torch==2.13.0" && $(PYTHON) -m pip install -e ".[dev]"

fmt: ## format the code and sort imports
	$(PYTHON) -m ruff format src tests && $(PYTHON) -m ruff check --fix src tests
	clang-format -i $(NATIVE)

lint: ## check format and lint
	$(PYTHON) -m ruff format --check src tests && $(PYTHON) -m ruff check src tests
	clang-format --dry-run -Werror $(NATIVE)

types: ## mypy, strict, on src
	$(PYTHON) -m mypy

test: ## the suite, two tests at a time (under five minutes)
	$(PYTHON) -m pytest -n 2 --dist worksteal

test-slow: ## what the suite leaves out, since a test takes long (three minutes)
	$(PYTHON) -m pytest -n 2 --dist worksteal -m slow

native-sanitize: ## the native engine's kernel tests under the address and undefined-behaviour sanitizers
	PYTHON="$(PYTHON)" bash tests/runtimes/native/sanitize.sh

arm: ## the native engine's kernels for ARM, under an emulator: the bits of portable code on this machine
	PYTHON="$(PYTHON)" bash tests/runtimes/native/arm.sh

fuzz: ## read 10,000 broken GGUF headers (EYAS_FUZZ is another number): none may crash, hang or eat memory
	$(PYTHON) -m pytest -q -m slow tests/models/test_gguf_file.py

stub: ## write the type stub of the compiled module, after its interface changed
	$(PYTHON) native/make_stub.py src/eyas/_native.pyi && $(PYTHON) -m ruff format -q src/eyas/_native.pyi

check: lint types test-slow test ## what CI runs

docs: ## build the documentation site into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

wheel: ## build a wheel into dist/
	rm -rf dist && $(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

head: ## train the head that ships (hours; see docs/training.md)
	bash benchmarks/train_head.sh

acceptance: ## measure the acceptance tables on EYAS_EVAL_DATA (ten minutes on 2 cores)
	bash benchmarks/acceptance.sh

equality: ## compare ids with plain decoding on EYAS_EVAL_DATA (about an hour on 2 cores)
	bash benchmarks/equality.sh

equality-native: ## the same on the native engine, bit for bit, every question (about an hour on 2 cores)
	bash benchmarks/equality_native.sh

speed: ## EAGLE-2 against plain decoding on the native engine, on EYAS_EVAL_DATA (about an hour on 2 cores)
	bash benchmarks/speed.sh

peers: ## measure eyas beside transformers and llama.cpp (about half an hour on 2 cores)
	bash benchmarks/peers.sh

quality: ## how far a quantised model is from its weights in float32: make quality MODEL=file.gguf (minutes)
	$(PYTHON) benchmarks/quality.py $(MODEL) --scales 32 256 llama.cpp

bench: ## every method side by side on EYAS_EVAL_DATA, then tables and figures (hours on 2 cores)
	bash benchmarks/bench.sh

bench-smoke: ## the same on twelve questions of our own, into build/ (minutes)
	SMOKE=1 bash benchmarks/bench.sh

serve-load: ## load the server: speed by number of clients, every id compared (about 40 minutes on 2 cores)
	$(PYTHON) benchmarks/serve_load.py --seconds 16 --repeats 9 --mix 2000 --out benchmarks/results/serve-load.json

serve-soak: ## ten minutes of mixed load; fails if the server's memory grows
	$(PYTHON) benchmarks/serve_soak.py --seconds 600 --out benchmarks/results/serve-soak.json

serve-small: ## the two above in small, for CI: 100 requests, 30 seconds
	$(PYTHON) benchmarks/serve_load.py --clients 1 4 --seconds 5 --repeats 1 --max-tokens 32 --mix 100
	$(PYTHON) benchmarks/serve_soak.py --seconds 30 --tolerance 0.3 # caches still fill: only a gross leak shows

test-ray: ## the Ray Serve application with two replicas on this machine (needs the extra ray)
	EYAS_TEST_RAY=1 $(PYTHON) -m pytest -W default tests/serve/ray

.PHONY: fuzz stub docs serve-load serve-soak serve-small test-ray bench bench-smoke help wheel peers setup fmt lint types test test-slow native-sanitize arm check head acceptance equality equality-native speed
