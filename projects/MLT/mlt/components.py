"""Import this to fill the registries: the one file that is imported for its side effect."""

import mlt.data.datasets
import mlt.engine.pseudo_label_hook
import mlt.modeling.backbones
import mlt.modeling.heads
import mlt.modeling.losses
import mlt.modeling.memory
import mlt.modeling.meta_arch  # noqa: F401
