"""Only PseudoLabelHook and MixtureLabelHead, in FastReID's Baseline: it learns unlabelled images by their clusters."""

import mlt.adapters.fastreid as door  # lets FastReID run here, so it comes first

# isort: split
from fastreid.engine import DefaultTrainer

from mlt.engine.pseudo_label_hook import PseudoLabelHook
from mlt.structures import TARGET


class ClusterTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        door.register_datasets(cfg)
        target, sizes = door.read_train(cfg.DATASETS.TARGETS), (cfg.SOLVER.ITERS_PER_EPOCH, cfg.SOLVER.IMS_PER_BATCH)
        return door.JointLoader([], target, lambda *images: door.load_identities(cfg, *images), False, *sizes)

    def build_hooks(self):
        hook = self.checkpointer.checkpointables["pseudo_labels"] = PseudoLabelHook(self.cfg, self)
        return [door.ForeignHook(hook), *super().build_hooks()]

    def extract_target(self):  # from here on: what the hook asks of who trains
        target, net = self.data_loader.records[TARGET], self.model
        return door.embed_all(self.cfg, target, net, lambda images: net({"images": images}))

    def target_ids(self):
        return self.data_loader.ids(TARGET)

    def start_round(self, labels, embeddings, restart):
        self.model.heads.reset_classifier(0, *labels.num_clusters)

    def set_pseudo_labels(self, labels):
        self.data_loader.set_target_identities(labels.targets)

    log = staticmethod(print)


if __name__ == "__main__":  # --config-file FILE [--resume] [KEY VALUE ...]
    door.run(ClusterTrainer)
