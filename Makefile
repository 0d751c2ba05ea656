# `make demo` and `make test` set up .venv by themselves, on a machine with Python 3.11.4 or later, git and make.
SHELL := bash
PYTHON ?= python3
RUN := .venv/bin/python
SEEDS ?= 0 1 2
SPEECH_RUNS = $(foreach corpus,LJSpeech-1.1 revoiced voices ljspeech-345,$(wildcard runs/q3/$(corpus)-*.json))
# pip's progress in a few lines: the packages that it finds, the downloads of 10 MB and more, and what goes wrong
PIP = set -o pipefail; $(RUN) -m pip install --disable-pip-version-check --progress-bar off
SHORTLY = | { printf '  Collecting'; while read -r word name size; do case "$$word $$size" in \
  Collecting*) printf ' %s' "$${name%%[!A-Za-z0-9._-]*}";; \
  Downloading\ \([1-9][0-9]*.[0-9]\ MB\)) printf '\n  %s %s %s' "$$word" "$$name" "$$size";; \
  Installing*) printf '\n  Installing all of it\n';; esac; done; }

.PHONY: help demo page test test-rest test-all lint format homework publish notebook benchmark readme report submission \
  clean

help: ## list the targets
	@awk -F ':.*## ' '/^## / { printf "\n%s\n", substr($$0, 4) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.version_info < (3, 11, 4) and sys.exit('Python 3.11.4 or later is needed, but this is ' \
	  + sys.version.split()[0] + ': make PYTHON=python3.12, for example')"
	@$(PYTHON) -c "import ensurepip, venv" 2> /dev/null || { echo "Python's venv is missing: on Debian and Ubuntu," \
	  "apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv, once: PyTorch and its libraries, 6 GB of disk, some minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) -r requirements.txt $(SHORTLY)
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	@echo "Setting up what the tests need"
	@$(PIP) -r requirements-dev.txt $(SHORTLY)
	@touch $@

.venv/installed-benchmark: .venv/installed-dev
	@$(PIP) -e ".[benchmark]" $(SHORTLY)
	@touch $@

## Try it

demo: .venv/installed ## all three questions in brief, on synthetic data: offline, about three minutes
	@$(RUN) -m demo

test: .venv/installed-dev ## the tests that take seconds
	$(RUN) -m pytest -n auto --dist loadfile -m "not slow and not real_data"

## Run the homework

homework: .venv/installed ## everything on the original data: downloads it (2.7 GB), then refreshes results/, plots/ and README.md
	$(RUN) download_octmnist.py
	$(RUN) download_octmnist.py --dataset pneumoniamnist
	$(RUN) download_ljspeech.py
	$(RUN) q1_linear_attention.py
	$(RUN) hw2-q2.py --sweep --seeds $(SEEDS) --resume
	$(RUN) hw2-q2.py --recipe strong --seeds $(SEEDS) --resume
	$(RUN) hw2-q2.py --dataset pneumoniamnist --sweep --seeds 0 1 2 3 4 --resume
	$(RUN) hw2-q2.py --dataset pneumoniamnist --recipe strong --seeds 0 1 2 3 4 --resume
	$(RUN) hw2-q2.py --dataset synthetic-oct --sweep --seeds 0 1 2 --resume
	for data in octmnist pneumoniamnist synthetic-oct; do $(RUN) hw2-q2.py --shift --dataset $$data || exit; done
	$(RUN) -m asr train --decoder lstm --resume
	$(RUN) -m asr train --decoder transformer --resume
	for decoder in lstm transformer; do for join in 2 3; do \
	  $(RUN) -m asr evaluate --checkpoint runs/q3/LJSpeech-1.1-$$decoder-seed0.safetensors --join $$join || exit; done; done
	$(MAKE) publish notebook

notebook: .venv/installed-dev ## run hw2-q3.ipynb from top to bottom, and keep its outputs
	.venv/bin/jupyter execute --inplace --NotebookClient.record_timing=False hw2-q3.ipynb

benchmark: .venv/installed-benchmark ## speed against peers and the course's way: an hour, idle machine
	$(RUN) benchmarks/q1_attention.py --out results
	$(RUN) -m q1.plots results/q1/*.json --out plots
	$(RUN) benchmarks/q2_training.py --out results
	$(RUN) benchmarks/q3_throughput.py --out results
	$(RUN) benchmarks/q3_silence.py --out results

## Publish

publish: .venv/installed ## take the comparisons in runs/ over into results/, plots/ and README.md
	mkdir -p results/q1 results/q2 results/q3
	cp runs/q1/demo.json results/q1/
	$(RUN) -m q1.plots results/q1/*.json --out plots
	cp $(wildcard runs/q2/*-sweep.json runs/q2/*-shift.json runs/q2/*-strong-adam-lr0.003.json) results/q2/
	$(RUN) -m q2.plots results/q2/*-sweep.json results/q2/*-shift.json results/q2/*-strong-*.json --out plots
	$(if $(SPEECH_RUNS),cp $(SPEECH_RUNS) results/q3/)
	$(RUN) -m asr.plots results/q3/*.json --out plots
	$(RUN) -c "from synthetic.scans import plot_contact_sheet; plot_contact_sheet('plots/q2/synthetic-oct-examples')"
	$(RUN) -m publish.readme
	$(RUN) -m publish.results_page

readme: .venv/installed ## write the table of results into README.md anew
	$(RUN) -m publish.readme

page: .venv/installed ## write results/index.html, the results on one page, anew
	$(RUN) -m publish.results_page

report: .venv/installed ## report/report.pdf, its numbers and tables from results/ (needs LaTeX)
	@command -v latexmk > /dev/null && command -v pdflatex > /dev/null || { echo "LaTeX is missing: on Debian and Ubuntu," \
	  "apt install texlive-latex-recommended texlive-latex-extra texlive-science texlive-fonts-recommended lmodern latexmk" >&2; exit 1; }
	$(RUN) -m publish.report
	cd report && SOURCE_DATE_EPOCH=0 latexmk -pdf -interaction=nonstopmode -halt-on-error -silent -outdir=build report.tex
	cp report/build/report.pdf report/report.pdf

submission: ## the report and the code in one zip
	git archive --format=zip --output=submission.zip HEAD
	@echo "submission.zip: $$(git archive HEAD | tar -t | wc -l) files of commit $$(git rev-parse --short HEAD)"

## Develop

test-rest: .venv/installed-dev
	$(RUN) -m pytest -n auto --dist loadfile -m "slow or real_data"

test-all: test test-rest ## also the slow tests, and those on real data in ../shared/data (skipped without it)

lint: .venv/installed-dev ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: .venv/installed-dev ## mend what ruff can mend
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove the virtual environment and the runs
	rm -rf .venv runs report/build
