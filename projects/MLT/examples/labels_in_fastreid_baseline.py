"""Only PseudoLabelHook and MixtureLabelHead, in FastReID's Baseline: it learns unlabelled images by their clusters."""

from functools import partial
from weakref import proxy

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
        sizes = {"num_batches": cfg.SOLVER.ITERS_PER_EPOCH, "ims_per_batch": cfg.SOLVER.IMS_PER_BATCH}
        return door.JointLoader([], target, load, with_source=False, **sizes)

    def build_hooks(self):
        return [door.ForeignHook(PseudoLabelHook(self.cfg, proxy(self))), *super().build_hooks()]

    def extract_target(self):
        target = self.data_loader.records[TARGET]
        return door.embed_all(self.cfg, target, self.model, lambda images: self.model({"images": images}))

    def target_ids(self):
        return self.data_loader.ids(TARGET)

    def start_round(self, labels, embeddings, restart):
        self.model.heads.reset_classifier(0, *labels.num_clusters)

    def set_pseudo_labels(self, labels):
        self.data_loader.set_target_identities(labels.targets)

    def log(self, values):
        print(values)
