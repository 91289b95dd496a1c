# On a fresh machine with Python 3.11 or newer: `make demo` tracks a clip, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint unit docs package gif web clean

demo: $(VENV)/core
	$(BIN)/fartrack demo

test: lint docs unit package

lint: $(VENV)/dev
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/mypy

# OpenVINO's threads do not survive a fork: its tests are apart from those that train and fork.
OPENVINO := tests/engines/test_engines.py tests/engines/test_devices.py tests/test_export.py
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --max-worker-restart 0

unit: $(VENV)/dev
	$(PYTEST) $(OPENVINO:%=--ignore=%)
	$(PYTEST) $(OPENVINO)

# The documentation as a site, which loads nothing from elsewhere.
docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	! grep -rlE '(src=|<link [^>]*href=|url\()"?https?:' site --include='*.html' --include='*.css'

# The picture at the top of the README.
gif: $(VENV)/dev
	$(BIN)/python benchmarks/demo_gif.py

# The wheel, installed alone in a fresh environment, tracks from there.
package: $(VENV)/dev
	PYTHON=$(PYTHON) tests/wheel.sh $(BIN)/python

# The page of `fartrack web`, built and installed; its tests run where this was done. Needs Node.js 20 or newer.
web: $(VENV)/core
	cd web && npm ci --no-fund --no-audit && npm run build
	$(INSTALL) --force-reinstall --no-deps ./web

# ONNX Runtime's C++ headers, which the test of examples/cpp needs and the wheel lacks: out of a package for phones of 143 MB.
build/onnxruntime:
	rm -rf $@.part && mkdir -p $@.part
	cd $@.part && npm pack --silent com.github.asus4.onnxruntime@0.4.9
	tar -xzf $@.part/*.tgz -C $@.part --strip-components=7 --wildcards '*/ios-arm64/*/Headers/*.h' && rm $@.part/*.tgz
	mv $@.part $@

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(INSTALL) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site web/node_modules web/fartrack_web/page
