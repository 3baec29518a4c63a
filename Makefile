# `make demo` and `make test` work on a bare machine with Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The plugin's tests open windows, on a display of their own where there is one to be had.
DISPLAYED := $(if $(shell command -v xvfb-run 2>/dev/null),xvfb-run -a)

# Compiled modules are kept even where the machine says not to: the tests start Python some fifty times,
# and without them each start compiles its libraries anew, for many seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint format docs pictures notebooks bench bench-accuracy bench-speed clean

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing $(VENV) && uv pip install --quiet --python $(BIN)/python -e '.[test,napari,docs]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,napari,docs]'; \
	fi
	@touch $@

demo: $(STAMP)
	$(BIN)/histoquant demo --out histoquant-demo

# By file, in their order: the plugin's long files first, so that no worker is left with one at the end.
test: $(STAMP)
	$(DISPLAYED) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q
	@# Notebooks run in kernels of their own, so that warnings here are Jupyter's.
	$(BIN)/python -m pytest -q -n 2 -W default --nbmake --nbmake-timeout=1800 notebooks/*.ipynb

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, from docs/ and notebooks/; needs no network. A warning is an error.
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site/html
	@echo site/html/index.html

# Pictures of docs/napari.md, from a window that nobody looks at; some minutes.
pictures: $(STAMP)
	$(DISPLAYED) $(BIN)/python docs/make_pictures.py

# Runs every notebook from its .py and keeps what it shows; takes a minute or two.
notebooks: $(STAMP)
	$(BIN)/jupytext --quiet --to ipynb notebooks/*.py
	$(BIN)/python -m pytest -q -n 0 -W default -p no:cacheprovider --nbmake --nbmake-timeout=1800 --overwrite notebooks/*.ipynb

# Slow: accuracy of fibers, cells and whole runs, written to docs/accuracy.md.
bench-accuracy: $(STAMP)
	$(BIN)/python benchmarks/accuracy.py

# Speed against decoding, scikit-image and HistomicsTK, written to docs/benchmarks.md; some minutes on an idle machine.
bench-speed: $(STAMP)
	$(BIN)/python benchmarks/speed.py

bench: bench-accuracy bench-speed

clean:
	rm -rf $(VENV) histoquant-demo site
