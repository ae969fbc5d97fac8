#!/usr/bin/env bash
# Makes the environments of the peers that cannot be installed beside today's sae_lens: bash benchmarks/peers.sh DIR
# (about 4 GB and ten minutes). On a machine without CUDA, torch's CPU build must be first in pip's sight:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu bash benchmarks/peers.sh DIR
set -euo pipefail
dir=${1:?"give the folder to make them in"}
python=${PYTHON:-python3}

# SAEDashboard: TransformerLens below 3, transformers below 4.57. The torchvision and torchaudio that come with it are not for this torch.
"$python" -m venv "$dir/saedashboard"
"$dir/saedashboard/bin/pip" install -q torch==2.13.0 sae-dashboard==0.8.0 transformer_lens==2.17.0 pyarrow==25.0.1 frozendict tabulate
"$dir/saedashboard/bin/pip" uninstall -q -y torchvision torchaudio

# SAEBench: numpy below 2, which a newer pyarrow refuses. Its own list of requirements would bring CUDA's torch, so it comes without.
"$python" -m venv "$dir/saebench"
"$dir/saebench/bin/pip" install -q torch==2.13.0 "sae_lens>=6.54,<7" "transformer_lens>=3.9,<4" "numpy<2" "datasets>=3,<4" "pyarrow<20" \
    plotly seaborn matplotlib tabulate openai beartype collectibles scikit-learn
"$dir/saebench/bin/pip" install -q --no-deps "sae-bench==0.6.0" "sae-probes>=0.4,<0.5"

for peer in saedashboard saebench; do
    "$dir/$peer/bin/python" -c "import torch, sae_lens; print('$peer: torch', torch.__version__)"
done
