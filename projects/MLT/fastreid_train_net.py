#!/usr/bin/env python
"""FastReID's tools/train_net.py with our components and trainer; FastReID's own meta-architectures train as ever.

python projects/MLT/fastreid_train_net.py --config-file projects/MLT/configs/fastreid/MLT-duke2market.yml --num-gpus 4 \
    MODEL.WEIGHTS logs/fastreid/pretrain-duke/model_final.pth
"""

from mlt.adapters.fastreid import MLTTrainer, run

if __name__ == "__main__":
    run(MLTTrainer)
