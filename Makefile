# make test (all checks) | demo | install | fastreid | lint | types | wheel | emulate | sanitize | gpu-check | gpu-bench |
# clean.  PYTHON= chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GPU = $(shell $(PYTHON) -c 'import torch; print(torch.cuda.is_available() and torch.cuda.get_device_name().replace(" ", "-"))')
WHEEL_ARCHS ?= 7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX
NATIVE := setup.py pyproject.toml $(wildcard mlt_ops/csrc/*.* mlt_ops/csrc/*/*.*)

export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: install fastreid demo test lint types wheel gpu-check gpu-bench sanitize sanitize-threads sanitize-memory \
	sanitize-cuda emulate emulate-memory abi-check clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

$(VENV)/.requirements: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python >= 3.10 is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed: $(VENV)/.requirements $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/python -c 'import mlt, mlt_ops; print(mlt_ops.describe_build())'
	touch $@

# The real FastReID, which the adapter and its tests meet; everything else works without.
fastreid: $(VENV)/.fastreid

$(VENV)/.fastreid: $(VENV)/.installed requirements-fastreid.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-fastreid.txt
	$(BIN)/python -c 'import mlt.adapters.fastreid'
	touch $@

# The demo's domains: people and camera seeds on which nothing was tuned.
DEMO_DATA := datasets/synthetic
DEMO_SEEDS := --seed 21 --camera-seed 7

demo: install
	$(BIN)/python tools/make_synthetic.py $(DEMO_DATA) --domain campus $(DEMO_SEEDS) --jobs 2
	$(BIN)/python tools/make_synthetic.py $(DEMO_DATA) --domain station $(DEMO_SEEDS) --jobs 2
	$(BIN)/python tools/measure_gap.py --config-file configs/MLT/synthetic.yml --check

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# Threads that wait actively for one another stall small machines where several processes share the cores, and on the tests'
# small tensors a second thread takes more than it gives; tests of threads say how many they want. Two processes take two
# thirds of the time that one takes.
# FastReID decides at import whether it runs on a CPU; so with a GPU there, its tests run with it and without.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: export OMP_NUM_THREADS ?= 1
test: lint types fastreid
	$(BIN)/python -m pytest --timeout=600 --numprocesses 2 --dist loadscope
	@! nvidia-smi -L > /dev/null 2>&1 || CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest --timeout=600 tests/fastreid

wheel: $(VENV)/.requirements
	TORCH_CUDA_ARCH_LIST="$(WHEEL_ARCHS)" $(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .

# On a machine with a GPU, offline: needs torch >= 2.10, numpy, scikit-learn, pytest and a CUDA toolkit in $(PYTHON).
gpu-check gpu-bench: export PYTHONPATH := .:projects/MLT
gpu-check:
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(PYTHON) -m pytest tests/mlt_ops -rs
	$(PYTHON) benchmarks/bench_ops.py --device cuda --sizes 12936 200000 1000000 --search-size 1000000 --frames 200000 \
		--json "benchmarks/results/$(GPU).json"

# There, after gpu-check: the tests of the rest, then training, images and evaluation at the sizes of DukeMTMC-reID and
# Market-1501; needs torchvision, yacs, Pillow, tabulate, tensorboard and tqdm in $(PYTHON), too. Without a GPU it says so.
TRAINING := benchmarks/bench_train.py --device cuda --source 16522 --target 12936 --queries 3368 --gallery 15913 \
	--steps 50 --workers 8

gpu-bench:
	$(PYTHON) -m pytest tests/mlt -m gpu -rs
	$(PYTHON) $(TRAINING) --json "benchmarks/results/train-$(GPU).json"
	$(PYTHON) $(TRAINING) --ways fast compiled --json "benchmarks/results/train-compiled-$(GPU).json"
	$(PYTHON) benchmarks/bench_eval.py --device cuda --json "benchmarks/results/eval-$(GPU).json"
	$(PYTHON) benchmarks/bench_data.py --device cuda --json "benchmarks/results/data-$(GPU).json"

# Memory errors and undefined behaviour under the whole test set, races in the row builders; needs g++ and its runtimes.
sanitize: sanitize-threads sanitize-memory

SANITIZED := build/sanitized
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

sanitize-threads:
	mkdir -p build
	$(CXX) -std=c++20 -O1 -g -fsanitize=thread -ffp-contract=off -Imlt_ops/csrc tests/sanitize/rows_driver.cpp \
		-o build/rows_driver -pthread
	setarch -R build/rows_driver

sanitize-memory:
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r setup.py pyproject.toml LICENSE README.md mlt_ops projects tests $(SANITIZED)
	rm -rf $(SANITIZED)/mlt_ops/*.so
	cd $(SANITIZED) && WITH_CUDA=0 CFLAGS="-O1 -g $(ASAN)" LDFLAGS="$(ASAN)" $(abspath $(BIN))/python setup.py --quiet \
		build_ext --inplace
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(abspath $(BIN))/python -m pytest tests/mlt_ops -q

# The CUDA kernels' code on CPU threads, against the CPU kernels' bits: no GPU is needed, and none is replaced. Then the
# tests of the operators with it, but for those of the CPU's own time and memory; and the tests for a GPU on a device that is
# pretended, where Python goes the way of CUDA tensors (opcheck would compile for it, some are large for an emulator).
EMULATED := build/emulated

emulate: install
	$(BIN)/python -m pytest tests/emulate/check_emulator.py -q
	EMULATE_SEEDS=6 $(BIN)/python -m pytest tests/emulate/test_kernels.py -q
	EMULATE_MODE=races $(BIN)/python -m pytest tests/emulate/test_kernels.py -q
	mkdir -p $(EMULATED)
	PYTHONPATH=. $(BIN)/python tests/emulate/build.py $(EMULATED)
	EMULATE_LIBRARY=$(EMULATED)/full_plain.so $(BIN)/python -m pytest -p tests.emulate.on_cpu tests/mlt_ops -q \
		-k "not ctrl_c and not never_hold and not thousands and not other_threads"
	EMULATE_LIBRARY=$(EMULATED)/full_plain.so $(BIN)/python -m pytest -p tests.emulate.on_cpu -p tests.emulate.device \
		tests/mlt_ops -q -m gpu -k "not opcheck and not thousands and not cuda_gives"
	$(BIN)/python -m pytest -p tests.emulate.device tests/mlt -q -m gpu

# The same kernels under the address sanitizer: accesses beyond tensors, workspaces and shared memory.
emulate-memory: install
	EMULATE_MODE=memory ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest tests/emulate/test_kernels.py -q

# The same CPU-only binary under other interpreters: make abi-check PYTHONS="/venv/a/bin/python /venv/b/bin/python"
abi-check: install
	tests/abi.sh $(abspath $(BIN))/python $(abspath $(BIN))/python $(PYTHONS)

# On a machine with a GPU: invalid accesses and races in the CUDA kernels.
sanitize-cuda:
	$(PYTHON) setup.py --quiet build_ext --inplace
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
		$(PYTHON) -m pytest tests/mlt_ops -q -m gpu
	compute-sanitizer --tool racecheck --error-exitcode 1 $(PYTHON) -m pytest tests/mlt_ops -q -m gpu

clean:
	rm -rf build dist *.egg-info mlt_ops/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
