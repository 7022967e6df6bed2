"""Only PseudoLabelHook and MixtureLabelHead, in FastReID's Baseline: it learns unlabelled images by their clusters."""

from functools import partial

import mlt.adapters.fastreid as door  # lets FastReID run here, so it comes first

# isort: split
from fastreid.engine import DefaultTrainer

from mlt.engine.pseudo_label_hook import PseudoLabelHook
from mlt.structures import TARGET


class ClusterTrainer(DefaultTrainer):
    """DefaultTrainer as the host of a PseudoLabelHook, which asks for what stands below `build_hooks`."""

    @classmethod
    def build_train_loader(cls, cfg):
        door.register_datasets(cfg)
        target, load = door.read_train(cfg.DATASETS.TARGETS), partial(door.load_identities, cfg)
        sizes = cfg.SOLVER.ITERS_PER_EPOCH, cfg.SOLVER.IMS_PER_BATCH
        return door.JointLoader([], target, load, False, *sizes)

    def build_hooks(self):
        return [door.ForeignHook(PseudoLabelHook(self.cfg, self)), *super().build_hooks()]

    def extract_target(self):
        net, target = self.model, self.data_loader.records[TARGET]
        return door.embed_all(self.cfg, target, net, lambda images: net({"images": images}))

    def target_ids(self):
        return self.data_loader.ids(TARGET)

    def start_round(self, labels, embeddings, restart):
        self.model.heads.reset_classifier(0, *labels.num_clusters)

    def set_pseudo_labels(self, labels):
        self.data_loader.set_target_identities(labels.targets)

    log = staticmethod(print)
