# make demo     set up, train two embedded checkpoints, serve, ask, judge, rank them
# make demo-fusion   the whole WRPO recipe with tiny models: docs/pocket_fusion.md
# make test     set up, then the quick tests, on two processes; one real vLLM server is shared by the tests that need it
# make test-all everything but test-deepspeed; make test-slow is what it adds to make test
# make test-deepspeed   trainings sharded by DeepSpeed's ZeRO-3: two processes, two machines; installs it in .deepspeed/
# make bench-official   published numbers and times beside the original tools; HARNESS_PUBLISHED and HARNESS_MIRROR
# make bench-stats      coverage of the intervals, false alarms, and the bootstrap's time, on simulated benchmarks;
#                       it and bench-gate run two sections at a time: python -m benchmarks.gate --only NAME for one
# make bench-judges     what recorded judgments say of judges, written into docs/judges.md; HARNESS_PUBLISHED
# make bench-judging    what a call of ours costs against a mock server, beside inspect_ai, evalscope, alpaca_eval
# make bench-training   a WRPO training step beside the official layout: time and memory
# make bench-fusion     WRPO and its rivals in worlds with an exact reward, written into docs/fusion_study.md; resumes
# make gpu-check    on a machine with one GPU, at most nine minutes, no setup: parity, step times, memory, generation;
#                   it needs torch, transformers, accelerate and peft; TRL, for one arm, may lie in .gpu-packages/
# make bench-scale      time and memory: 100,000 judgments, 1,000 cards, a resume, 1,000 calls in flight
# make bench-viewer      weights and times of the viewer's pages: 50 runs of 805 questions; HARNESS_MIRROR
# make bench-board       weight and load time of the leaderboard page; RESULTS=FOLDER
# make bench-cases      what bad files and servers do to a score: version 0.2.0, the right value, and now; HARNESS_MIRROR
# make bench-gate       how often the gate and audits are wrong, on published judgments; HARNESS_PUBLISHED and HARNESS_MIRROR
# make test-python PYTHON=python3.13   unit tests of the core package, without torch and vLLM, on another Python
# make docs     the documentation as a site, in site/; reference pages are written from the code
# make check    format, lint, types, layers; make setup installs .venv

PYTHON ?= python3
TORCH_INDEX ?=
# e.g. make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu   (PyTorch's own CPU builds)
BIN := .venv/bin
READY := .venv/.ready
RESULTS ?= results/demo

export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Packages are installed uncompiled: where bytecode may not be kept, every process would compile torch and trl again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo docs demo-fusion test test-all test-deepspeed test-python test-slow bench-official bench-stats bench-gate bench-judges bench-judging bench-training bench-fusion bench-scale bench-board bench-viewer bench-cases gpu-check check format clean
setup: $(READY)

$(READY): requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile -c requirements/cpu.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/pip install -q --no-compile --no-deps -r requirements/cpu.txt
	@# An environment made before 0.2.0 has this package under its old name, whose entry points lead nowhere now.
	$(BIN)/pip uninstall -qq -y fusion-harness
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

# The two train at the same time, one core each.
models/pocket-strong models/pocket-weak &: $(READY)
	$(BIN)/harness embedded --effort weak --out models/pocket-weak & weak=$$!; \
	$(BIN)/harness embedded --effort strong --out models/pocket-strong; strong=$$?; \
	wait $$weak && exit $$strong

demo: $(READY) models/pocket-strong models/pocket-weak
	$(BIN)/harness run --model models/pocket-weak --suite all --edition pocket --results $(RESULTS)
	$(BIN)/harness run --model models/pocket-strong --suite all --edition pocket --results $(RESULTS)
	$(BIN)/harness leaderboard --summary --results $(RESULTS)
	$(BIN)/harness leaderboard --results $(RESULTS) --format md --out $(RESULTS)/LEADERBOARD.md
	$(BIN)/harness leaderboard --results $(RESULTS) --format html --out $(RESULTS)/board.html
	@echo "a page to open: $(RESULTS)/board.html; questions and answers: $(BIN)/harness view $(RESULTS)"
	@echo "score cards, answers and judgments: $(RESULTS)/runs; next, your own checkpoint: docs/evaluate.md"

# Steps run two at a time, one core each.
demo-fusion: $(READY)
	$(BIN)/harness pocket-models --out models/pocket-fusion
	$(BIN)/harness train pocket --jobs 2

# A worker's numerical libraries use one thread: two workers share the cores with the servers that they start.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

docs: $(READY)
	$(BIN)/pip install -q --no-compile --no-deps -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

test: $(READY)
	$(PYTEST) -m "not slow"

CORE := install agreement anchors bradley_terry config consistency crossed jury newton_l1 parsing \
	scoring standing stats_deciding stats_paired store style_control variance
CORE_VENV = .venv-core-$(notdir $(PYTHON))

test-python:
	$(PYTHON) -m venv $(CORE_VENV)
	$(CORE_VENV)/bin/pip install -q -e . hypothesis pytest pytest-timeout
	$(CORE_VENV)/bin/python -m pytest -q -p no:cacheprovider $(CORE:%=tests/unit/test_%.py)

test-slow: $(READY)
	$(PYTEST) -m slow

test-all: $(READY)
	$(PYTEST)

# In a folder of its own: once importable, accelerate and transformers would use DeepSpeed everywhere.
.deepspeed: requirements/deepspeed.txt $(READY)
	DS_BUILD_OPS=0 $(BIN)/pip install -q --no-compile --no-deps --no-build-isolation --upgrade --target $@ -r $<
	@touch $@

test-deepspeed: .deepspeed
	PYTHONPATH=.deepspeed $(BIN)/python -m pytest -q -n0 tests/torch/test_distributed.py tests/torch/test_machines.py -k zero-3

bench-official: $(READY)
	$(BIN)/python -m benchmarks.official

bench-stats: $(READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.stats

bench-gate: $(READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.gate

bench-judges: $(READY)
	$(BIN)/python -m benchmarks.judges

bench-judging: $(READY)
	$(BIN)/python -m benchmarks.judging --write

bench-training: $(READY)
	$(BIN)/python -m benchmarks.training

bench-fusion: $(READY)
	$(BIN)/python -m benchmarks.fusion --write

gpu-check:
	PYTHONPATH=.:.gpu-packages $(PYTHON) -m benchmarks.training.gpu_check $(if $(SIZE),--size $(SIZE))

bench-scale: $(READY)
	$(BIN)/python -m benchmarks.scale

bench-viewer: $(READY)
	$(BIN)/python -m benchmarks.viewer_pages

bench-board: $(READY)
	$(BIN)/python -m benchmarks.board_page $(RESULTS)

bench-cases: $(READY)
	$(BIN)/python -m benchmarks.cases

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -f results/LEADERBOARD.md ]; then $(BIN)/harness leaderboard --unpaired --check results/LEADERBOARD.md; fi

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv models results/demo
