# Two commands from a fresh clone: `make demo` and `make test`. Each makes its own .venv, both are idempotent.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt

.PHONY: demo test check format slow clean
.DELETE_ON_ERROR:

demo: .venv/.run
	@scripts/demo

test: .venv/.test
	@scripts/test

check: .venv/.test
	@scripts/check

format: .venv/.test
	@scripts/format

slow: .venv/.test
	@scripts/test -m slow

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Safelight needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "making .venv"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --upgrade pip
	@touch $@

.venv/.run: .venv/.made pyproject.toml constraints.txt
	@echo "installing Safelight"
	@$(INSTALL) --editable '.[download]'
	@touch $@

.venv/.test: .venv/.run requirements-oracles.txt
	@echo "installing what the tests need"
	@$(INSTALL) --group test --group lint
	@$(PIP) install --quiet --no-deps --requirement requirements-oracles.txt
	@if command -v npm > /dev/null; then npm ci --prefix tests/server/javascript --no-audit --no-fund --loglevel=error > /dev/null || echo "npm could not install the JavaScript client: its tests are skipped"; fi
	@touch $@

clean:
	rm -rf .venv out dist build
